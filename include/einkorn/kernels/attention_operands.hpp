/// What both directions of attention share: the tasks, the operands of one head in the layout of the
/// micro-kernel, and their memory.
///
/// The micro-kernels are called without the GEMM driver. Every operand of a head is packed once, 1 % of the
/// work at 384 keys, and the blocks of scores and probabilities between the products stay in L1 and L2.
#pragma once

#include "../detail/attention_args.hpp"
#include "gemm.hpp"
#include "math.hpp"
#include "parallel.hpp"
#include "philox.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

inline index rounded_up(index value, index unit) { return (value + unit - 1) / unit * unit; }

/// Bytes of a row: whole vectors, in an odd number of cache lines, so that the rows of a tile fall into
/// different sets of L1.
inline index odd_lines(index bytes) { return ((bytes + 63) / 64 | 1) * 64; }

/// Takes consecutive parts of one piece of scratch memory, each aligned to 64 bytes. Without memory it only
/// counts: the same code says how much is needed and hands it out.
class scratch_parts {
 public:
  explicit scratch_parts(char* memory = nullptr) : memory_(memory) {}
  template <class T>
  T* take(index count) {
    T* const result = memory_ != nullptr ? reinterpret_cast<T*>(memory_ + bytes_) : nullptr;
    bytes_ += rounded_up(count * static_cast<index>(sizeof(T)), 64);
    return result;
  }
  index bytes() const { return bytes_; }

 private:
  char* memory_;
  index bytes_ = 0;
};

/// Sizes of packed operands, and the product of one tile.
template <class Kernel>
struct head_layout {
  using element = typename Kernel::element;
  static constexpr index mr = Kernel::mr, nr = Kernel::nr;

  static index groups(index depth) { return rounded_up(depth, Kernel::k_step) / Kernel::k_group; }
  static index row_bytes(index depth) { return odd_lines(groups(depth) * 4); }
  static index panels(index cols) { return (cols + nr - 1) / nr; }
  static index panel_bytes(index depth) { return groups(depth) * nr * 4; }
  /// Where column k of a packed row, or row k of a panel, begins.
  static index row_offset(index k) { return k / Kernel::k_group * 4; }
  static index panel_offset(index k) { return k / Kernel::k_group * nr * 4; }

  /// c (rows x cols, row-major) = or += A B, for rows <= mr and cols <= nr. Whole vectors of c are written:
  /// the panels hold zeros beyond cols, and no later pass meets what memory held before.
  static void multiply(index rows, index cols, index depth, const char* a, index a_stride, const char* b,
                       float* c, index c_stride, bool accumulate) {
    Kernel::run(static_cast<int>(rows), static_cast<int>(rounded_up(cols, Kernel::lanes)),
                {.groups = groups(depth),
                 .a = a,
                 .a_stride = a_stride,
                 .b = b,
                 .b_stride = nr * 4,
                 .initial = nullptr,
                 .acc = c,
                 .acc_stride = c_stride,
                 .accumulate = accumulate});
  }
};

/// A matrix as rows of k-groups: the A of a product.
template <class Kernel>
struct head_rows {
  using layout = head_layout<Kernel>;
  char* data;
  index stride;
  head_rows(scratch_parts& parts, index rows, index depth)
      : data(parts.take<char>(rows * layout::row_bytes(depth))), stride(layout::row_bytes(depth)) {}
  void pack(const any_matrix& m, index first, index rows) const {
    gemm_pack_rows<Kernel>(m, 0, first, rows, 0, m.cols, data, stride);
  }
  const char* at(index row, index k = 0) const { return data + row * stride + layout::row_offset(k); }
};

/// A matrix as panels of nr columns: the B of a product.
template <class Kernel>
struct head_panels {
  using layout = head_layout<Kernel>;
  char* data;
  index panel_bytes;
  head_panels(scratch_parts& parts, index depth, index cols)
      : data(parts.take<char>(layout::panels(cols) * layout::panel_bytes(depth))),
        panel_bytes(layout::panel_bytes(depth)) {}
  void pack(const any_matrix& m) const {
    gemm_pack_columns<Kernel>(m, 0, 0, m.cols, 0, m.rows, data, panel_bytes);
  }
  const char* at(index panel, index k = 0) const {
    return data + panel * panel_bytes + layout::panel_offset(k);
  }
};

inline any_matrix transposed(any_matrix m) {
  m.transposed = !m.transposed;
  const index rows = m.rows;
  m.rows = m.cols;
  m.cols = rows;
  return m;
}

/// `rows` x `cols` of a plain matrix from (row, col).
inline any_matrix part(any_matrix m, index row, index col, index rows, index cols) {
  m.data = const_cast<char*>(gemm_address(m, row * m.stride + col));
  m.rows = rows;
  m.cols = cols;
  return m;
}

/// The columns of one head of one sequence: q, k, v without the rows behind the keys.
struct head_view {
  any_matrix q, k, v;
  head_view(const any_matrix& qkv, const sequence& s, int head, int heads) {
    const index hidden = qkv.cols / 3, width = hidden / heads;
    q = part(qkv, s.first_row, head * width, s.rows, width);
    k = part(qkv, s.first_row, hidden + head * width, s.key_count(), width);
    v = part(qkv, s.first_row, 2 * hidden + head * width, s.key_count(), width);
  }
};

/// The random bits of one head.
inline dropout_stream head_dropout(const dropout_spec& spec, const sequence& s, int head) {
  return {spec.seed, spec.step, spec.site + static_cast<std::uint32_t>(head), s.sample,
          detail::dropout_threshold(spec.p)};
}
/// Elements from a query to the next, in the numbering of the bits.
inline constexpr index dropout_row = 65536;

inline void zero_rows(const any_matrix& m) {
  for (index row = 0; row < m.rows; ++row)
    __builtin_memset(const_cast<char*>(gemm_address(m, row * m.stride)), 0,
                     static_cast<std::size_t>(m.cols * size_of(m.type)));
}

/// Row of m = factor * values.
inline void write_scaled(const any_matrix& m, index row, const float* values, float factor) {
  const any_row to = untyped_rows(m).at(row, 0);
  for_vectors(m.cols,
              [&](index i, const auto& lanes) { lanes(to + i, lanes(values + i) * broadcast(factor)); });
}

/// Tasks: blocks of at most `most_rows` queries of one head of one sequence.
struct attention_tasks {
  std::span<const sequence> sequences;
  index heads, most_rows;
  index blocks(const sequence& s) const { return (s.rows + most_rows - 1) / most_rows; }
  index count() const {
    index total = 0;
    for (const sequence& s : sequences) total += blocks(s);
    return total * heads;
  }
  struct place {
    const sequence& s;
    int head;
    index first, rows;
  };
  place find(index task) const {
    for (const sequence& s : sequences) {
      const index count = blocks(s), here = count * heads;
      if (task < here) {
        const index rows = (s.rows + count - 1) / count, first = task % count * rows;
        return {s, static_cast<int>(task / count), first, std::min(rows, s.rows - first)};
      }
      task -= here;
    }
    __builtin_unreachable();
  }
};

/// body(kernel) with the micro-kernel that multiplies matrices of this type.
template <class Args, class Body>
inline void with_attention_kernel(const Args& args, const Body& body) {
  gemm_with_kernel(args.qkv.type, args.qkv.type, args, [&](auto kernel) {
    if constexpr (std::is_same_v<typename decltype(kernel)::accumulator, float>) body(kernel);
  });
}

EINKORN_END_LEVEL
