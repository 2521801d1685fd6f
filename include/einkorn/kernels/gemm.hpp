/// The blocked GEMM driver, templated on a micro-kernel.
///
/// C is cut into tasks of rows x columns (gemm_blocking.hpp). For each block of depth a task takes mr rows of
/// A after another (in place, or copied, converted, transposed: they are in L1 or L2 then) past all its
/// panels of B, nr columns each, and calls the micro-kernel for one tile of C after another. B is streamed
/// from where it is, L2 or L3, 5 bytes a cycle.
///
/// The depth blocks depend on the depth only; rows, columns and tasks may depend on caches and threads, since
/// every element is summed in the same order wherever its tile begins: block by block, from zero in each.
///
/// A micro-kernel is a struct with
///   element               of packed A and B; accumulator: float or std::int32_t
///   mr, nr, lanes         the tile; C is stored in whole vectors of `lanes`
///   k_group, k_step       elements that B interleaves per column (4 bytes); depth of packed operands is
///                         rounded up to k_step with zeros
///   flips_s8              A of s8 comes with 128 added, and panels of B end with nr compensations
///   a_panels, converts    it honours a_step, and narrow, of gemm_tile_args
///   session               constructed in every worker before its first tile (tile configuration)
///   masks                 B in place and C may end at any column
///   run(rows, cols, t)    acc(rows, cols) [+]= A B, see gemm_tile_args; rows <= mr, cols <= nr;
///                         without masks, up to the next multiple of `lanes` columns
/// gemm_amx.hpp reads A at any a_stride, and depths of any number of k-groups.
#pragma once

#include <algorithm>

#include "gemm_amx.hpp"
#include "gemm_avx2.hpp"
#include "gemm_avx512.hpp"
#include "gemm_baseline.hpp"
#include "gemm_blocking.hpp"
#include "gemm_epilogue.hpp"
#include "gemm_pack.hpp"
#include "parallel.hpp"

EINKORN_BEGIN_LEVEL

template <class Kernel>
class gemm_driver {
 public:
  using accumulator = typename Kernel::accumulator;

  gemm_driver(const detail::gemm_args& args, const gemm_blocking<Kernel>& blocking,
              const detail::gemm_pointers& pointers)
      : g(args), cut(blocking), data(pointers) {}

  /// memory: scratch_bytes() of the blocking.
  void run(char* memory) {
    if (cut.simple) return run_simple();
    if (is_single()) {
      const default_mxcsr environment;
      [[maybe_unused]] const typename Kernel::session session;
      multiply({0, 0, g.c.rows, 0, g.c.cols}, static_cast<const char*>(g.packed), 0,
               cut.panel_count(g.c.cols), memory);
      return;
    }
    const executor exec = cut.workers > 1 ? g.exec : serial_executor();
    char* const workers = memory + cut.shared_bytes;
    if (cut.b != gemm_b::shared) {
      run_tasks(exec, workers, 0, g.batch, 0, g.c.cols, static_cast<const char*>(g.packed));
      return;
    }
    any_matrix b = g.b;
    b.data = const_cast<void*>(data.b);
    for (index batch = 0; batch < g.batch; ++batch) {
      for (index col = 0; col < g.c.cols; col += cut.chunk_cols) {
        const index cols = std::min(cut.chunk_cols, g.c.cols - col);
        gemm_pack_panels(b, batch * g.batch_b, cut, col, cols, memory, exec);
        run_tasks(exec, workers, batch, batch + 1, col, cols, memory);
      }
    }
  }

 private:
  const detail::gemm_args& g;
  const gemm_blocking<Kernel>& cut;
  const detail::gemm_pointers data;

  struct task_tile {
    index batch, row, rows, col, cols;
  };

  /// A small product whose operands all lie as the micro-kernel wants them.
  void run_simple() {
    const default_mxcsr environment;
    [[maybe_unused]] const typename Kernel::session session;
    gemm_tile_args<accumulator> t;
    t.groups = cut.groups(0);
    t.a_stride = cut.a_stride;
    t.initial = nullptr;
    t.acc_stride = g.c.stride;
    t.accumulate = g.e.beta != 0;
    t.narrow_type = g.c.type;
    const bool in_place = cut.b == gemm_b::in_place;
    t.b_stride = (in_place ? g.b.stride : Kernel::nr) * 4;
    const index b_step = in_place ? Kernel::nr * 4 : cut.panel_bytes(0), c_size = size_of(g.c.type);
    const index rows = g.c.rows, cols = g.c.cols;
    for (index row = 0; row < rows; row += cut.tile_rows) {
      t.a = static_cast<const char*>(data.a) + row * cut.a_stride;
      t.b = static_cast<const char*>(in_place ? data.b : g.packed);
      char* c = static_cast<char*>(data.c) + row * g.c.stride * c_size;
      for (index col = 0; col < cols; col += Kernel::nr, c += Kernel::nr * c_size, t.b += b_step) {
        t.acc = reinterpret_cast<accumulator*>(c);
        t.narrow = cut.direct ? nullptr : c;
        Kernel::run(static_cast<int>(std::min(cut.tile_rows, rows - row)),
                    static_cast<int>(std::min<index>(Kernel::nr, cols - col)), t);
      }
    }
  }

  /// One task: no counter, no division.
  bool is_single() const {
    return cut.workers == 1 && g.batch == 1 && cut.b != gemm_b::shared && cut.task_rows >= g.c.rows &&
           cut.own_cols >= g.c.cols;
  }

  /// Workers take tasks from a counter; each has scratch memory of its own.
  void run_tasks(const executor& exec, char* scratch, index batch0, index batch1, index col0, index cols,
                 const char* panels) {
    const index row_tasks = cut.task_rows >= g.c.rows ? 1 : (g.c.rows + cut.task_rows - 1) / cut.task_rows;
    const index col_tasks = cut.task_cols >= cols ? 1 : (cols + cut.task_cols - 1) / cut.task_cols;
    const index tasks = (batch1 - batch0) * row_tasks * col_tasks;
    index next = 0;
    parallel_for(exec, std::min(cut.workers, tasks), [&](index worker) {
      [[maybe_unused]] const typename Kernel::session session;
      for (;;) {
        const index task = cut.workers == 1 ? next++ : __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (task >= tasks) return;
        const index batch = task / (row_tasks * col_tasks), place = task - batch * row_tasks * col_tasks;
        const index row = place / col_tasks * cut.task_rows, col = place % col_tasks * cut.task_cols;
        const index end = std::min(col + cut.task_cols, cols);
        for (index first = col; first < end; first += cut.own_cols)
          multiply({batch0 + batch, row, std::min(cut.task_rows, g.c.rows - row), col0 + first,
                    std::min(cut.own_cols, end - first)},
                   panels, first / Kernel::nr, cut.panel_count(cols), scratch + worker * cut.worker_bytes);
      }
    });
  }

  /// panels: packed B, or null; each depth block has panels_in_block, of which the tile's first is
  /// first_panel.
  void multiply(const task_tile& tile, const char* panels, index first_panel, index panels_in_block,
                char* scratch) {
    char* const packed_a = scratch;
    if constexpr (!std::is_void_v<typename Kernel::instruction>)
      if (cut.b == gemm_b::dots) return multiply_dots(tile, scratch);
    char* const packed_b = packed_a + cut.a_bytes;
    accumulator* const sums = reinterpret_cast<accumulator*>(packed_b + cut.b_bytes);
    const index col_panels = cut.panel_count(tile.cols);
    any_matrix a_matrix = g.a, b_matrix = g.b;
    a_matrix.data = const_cast<void*>(data.a);
    b_matrix.data = const_cast<void*>(data.b);

    gemm_tile_args<accumulator> t;
    t.a_step = cut.a_step;
    t.a_stride = cut.a_stride;
    for (index block = 0; block < cut.blocks; ++block) {
      const index k = block * cut.block_depth, depth = std::min(cut.block_depth, g.a.cols - k);
      const index panel_bytes = cut.panel_bytes(block);
      const char* const ready = panels == nullptr ? nullptr
                                                  : panels + block * cut.panel_bytes(0) * panels_in_block +
                                                        first_panel * panel_bytes;
      t.groups = cut.groups(block);
      for (index pass = 0; pass < tile.rows; pass += cut.pass_rows) {
        const index pass_end = std::min(pass + cut.pass_rows, tile.rows);
        if (cut.a == gemm_a::panels)
          gemm_pack_row_panels<Kernel>(a_matrix, tile.batch * g.batch_a, tile.row + pass, pass_end - pass, k,
                                       depth, packed_a, cut.tile_rows, cut.a_step);
        else if (cut.a == gemm_a::rows)
          gemm_pack_rows<Kernel>(a_matrix, tile.batch * g.batch_a, tile.row + pass, pass_end - pass, k, depth,
                                 packed_a, cut.a_stride);
        for (index row = pass; row < pass_end; row += cut.tile_rows) {
          const index rows = std::min(cut.tile_rows, pass_end - row);
          if (cut.a == gemm_a::in_place)
            t.a = gemm_address(a_matrix, tile.batch * g.batch_a + (tile.row + row) * g.a.stride + k);
          else
            t.a = packed_a + (row - pass) / cut.tile_rows * (cut.a_step * t.groups);
          // A is read few times, from memory: each tile fetches a share of its next rows.
          const bool fetches = cut.prefetches_a && row + cut.tile_rows < tile.rows;
          const index share = fetches ? cut.tile_rows * cut.a_stride / col_panels : 0;
          t.next_step = fetches ? std::max<index>(1, share / t.groups) : 0;
          index panel = 0;
          for (; cut.wide && (panel + gemm_wide_panels) * Kernel::nr <= tile.cols;
               panel += gemm_wide_panels) {
            t.b = ready + panel * panel_bytes;
            t.b_stride = Kernel::nr * 4;
            t.initial = compensation(t);
            run_tile(tile, row, rows, panel * Kernel::nr, gemm_wide_panels * Kernel::nr, block, t,
                     cut.sums_stay ? sums + panel * Kernel::nr : sums);
          }
          for (; panel < col_panels; ++panel) {
            const index col = panel * Kernel::nr;
            const index cols = std::min(static_cast<index>(Kernel::nr), tile.cols - col);
            t.b_stride = Kernel::nr * 4;
            if (ready != nullptr) {
              t.b = ready + panel * panel_bytes;
            } else if (cut.b == gemm_b::in_place && (Kernel::masks || cols % Kernel::lanes == 0)) {
              t.b = gemm_address(b_matrix, tile.batch * g.batch_b + k * g.b.stride + tile.col + col);
              t.b_stride = g.b.stride * size_of(g.b.type);
            } else {
              const bool keeps = cut.b == gemm_b::own && tile.rows > cut.tile_rows;
              char* const own = packed_b + (keeps ? panel * panel_bytes : 0);
              if (row == 0 || !keeps)
                gemm_pack_columns<Kernel>(b_matrix, tile.batch * g.batch_b, tile.col + col, cols, k, depth,
                                          own, panel_bytes);
              t.b = own;
            }
            t.initial = compensation(t);
            t.next = fetches ? t.a + cut.tile_rows * cut.a_stride + panel * share : t.b;
            run_tile(tile, row, rows, col, cols, block, t,
                     cut.sums_stay ? sums + sums_place(row, col, col_panels) : sums);
          }
        }
      }
    }
  }

  static void prefetch_rows(const char* first, index pitch, index rows, index bytes) {
    for (index r = 0; r < rows; ++r) {
      __builtin_prefetch(first + r * pitch, 1);
      __builtin_prefetch(first + r * pitch + bytes - 1, 1);
    }
  }

  /// One tile (or 4 in one row): multiplied, and finished if this is the last block of depth.
  void run_tile(const task_tile& tile, index row, index rows, index col, index cols, index block,
                gemm_tile_args<accumulator>& t, accumulator* sums) {
    const bool first = block == 0, last = block + 1 == cut.blocks;
    const bool whole = Kernel::masks || cols % Kernel::lanes == 0;
    const index c_offset = tile.batch * g.batch_c + (tile.row + row) * g.c.stride + tile.col + col;
    char* const c = static_cast<char*>(data.c) + c_offset * size_of(g.c.type);
    if (t.groups >= 16) {  // C is needed a whole tile later: 1 to 4 % where it is not near
      prefetch_rows(c, g.c.stride * size_of(g.c.type), rows, cols * size_of(g.c.type));
      const any_matrix& pre = g.e.preactivation;
      if (pre.data != nullptr) {
        const index at = tile.batch * g.batch_preactivation + (tile.row + row) * pre.stride + tile.col + col;
        prefetch_rows(gemm_address(pre, at), pre.stride * size_of(pre.type), rows, cols * size_of(pre.type));
      }
    }
    t.narrow = nullptr;
    if (whole && cut.direct) {
      t.acc = reinterpret_cast<accumulator*>(c);
      t.acc_stride = g.c.stride;
      t.accumulate = !first || g.e.beta != 0;
      run_kernel(rows, cols, t);
      return;
    }
    if (whole && cut.converts && cols <= Kernel::nr) {
      t.narrow = c;
      t.narrow_type = g.c.type;
      t.acc_stride = g.c.stride;
      t.accumulate = false;
      Kernel::run(static_cast<int>(rows), static_cast<int>(cols), t);
      return;
    }
    t.acc = sums;
    t.acc_stride = sums_stride(tile, cols);
    t.accumulate = !first;
    run_kernel(rows, cols, t);
    if (last)
      gemm_finish_tile(g, data.c, tile.batch, tile.row + row, rows, tile.col + col, cols, sums, t.acc_stride);
  }

  /// -128 times the column sums of a panel, where bytes of A were flipped.
  const accumulator* compensation(const gemm_tile_args<accumulator>& t) const {
    return Kernel::flips_s8 && g.a.type == dtype::s8
               ? reinterpret_cast<const accumulator*>(t.b + t.groups * Kernel::nr * 4)
               : nullptr;
  }

  // Sums of a task that stay: tile by tile, or as rows where 4 panels are one tile.
  index sums_place(index row, index col, index col_panels) const {
    return cut.wide ? col : row * col_panels * Kernel::nr + col * cut.tile_rows;
  }
  index sums_stride(const task_tile& tile, index cols) const {
    if (!cut.wide) return Kernel::nr;
    return cut.sums_stay ? cut.panel_count(tile.cols) * Kernel::nr : std::max<index>(cols, Kernel::nr);
  }

  void run_kernel(index rows, index cols, const gemm_tile_args<accumulator>& t) const {
    if constexpr (Kernel::a_panels)
      if (cols > Kernel::nr)
        return gemm_wide<typename Kernel::instruction>(
            rows, t, t.groups * Kernel::nr * 4 + (Kernel::flips_s8 ? Kernel::nr * 4 : 0));
    Kernel::run(static_cast<int>(rows), static_cast<int>(cols), t);
  }

  /// Few rows of A and columns of B as they lie.
  void multiply_dots(const task_tile& tile, char* scratch) {
    using instruction = typename Kernel::instruction;
    any_matrix a = g.a, b = g.b;
    a.data = const_cast<void*>(data.a);
    b.data = const_cast<void*>(data.b);
    accumulator* const sums = reinterpret_cast<accumulator*>(scratch + cut.a_bytes);
    const index sums_stride = (tile.cols + 15) & ~index{15}, depth = g.a.cols;
    const char* rows_of_a = scratch;
    index rows = tile.rows;
    if (cut.a == gemm_a::in_place) {
      rows_of_a = gemm_address(a, tile.batch * g.batch_a);
    } else {
      gemm_pack_rows<Kernel>(a, tile.batch * g.batch_a, 0, rows, 0, depth, scratch, cut.a_stride);
      if (Kernel::flips_s8 && a.type == dtype::s8)  // its dot products are what 128 more in each byte adds
        __builtin_memset(scratch + rows++ * cut.a_stride, 0x80, static_cast<std::size_t>(cut.a_stride));
    }
    gemm_with_slice<Kernel>(b, false, tile.batch * g.batch_b, 0, depth, tile.col, tile.cols,
                            [&](const auto& slice) {
                              gemm_dot_columns<instruction>(rows, depth, rows_of_a, cut.a_stride, slice.data,
                                                            slice.stride, tile.cols, sums, sums_stride);
                            });
    if constexpr (std::is_same_v<accumulator, std::int32_t>) {
      const accumulator* const extra = sums + tile.rows * sums_stride;
      for (index r = 0; rows > tile.rows && r < tile.rows; ++r)
        for (index c = 0; c < tile.cols; ++c)
          sums[r * sums_stride + c] = static_cast<std::int32_t>(
              static_cast<std::uint32_t>(sums[r * sums_stride + c]) - static_cast<std::uint32_t>(extra[c]));
    }
    gemm_finish_tile(g, data.c, tile.batch, 0, tile.rows, tile.col, tile.cols, sums, sums_stride);
  }
};

/// body(kernel) with the micro-kernel of the types of A and B.
template <class Args, class Body>
inline void gemm_with_kernel(dtype a, [[maybe_unused]] dtype b, [[maybe_unused]] const Args& g,
                             const Body& body) {
#if EINKORN_LEVEL_AT_LEAST_AMX
  if (a == dtype::u8) return body(gemm_u8_tiles());
  if (a == dtype::s8) return body(gemm_s8_tiles());
  if (a == dtype::bf16 && b == dtype::bf16) return body(gemm_bf16_tiles());
  if (a == dtype::fp16 && b == dtype::fp16 && g.machine.fp16_tiles) return body(gemm_fp16_tiles());
#else
  if (a == dtype::u8 || a == dtype::s8) return body(gemm_int8());
#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16
  if (a == dtype::bf16 && b == dtype::bf16 && !g.machine.widen_bf16) return body(gemm_bf16());
#endif
#endif
  body(gemm_f32());  // narrow operands are widened while packing
}

inline void gemm(const detail::gemm_args& g) {
  if (g.batch == 0 || g.c.rows == 0 || g.c.cols == 0) return;
  gemm_with_kernel(g.a.type, g.b.type, g, [&](auto kernel) {
    const gemm_blocking<decltype(kernel)> blocking(g);
    const index bytes = blocking.scratch_bytes();
    alignas(64) char small[detail::gemm_small_scratch];
    char* const memory =
        bytes <= detail::gemm_small_scratch ? small : static_cast<char*>(g.scratch(g.scratch_context, bytes));
    if (memory == nullptr) return;
    gemm_driver<decltype(kernel)>(g, blocking, {g.a.data, g.b.data, g.c.data}).run(memory);
  });
}

/// What gemm_plan keeps: the blocking, and the function that goes on from there.
inline void gemm_prepare(const detail::gemm_prepare_args& p) {
  gemm_with_kernel(p.g->a.type, p.g->b.type, *p.g, [&](auto kernel) {
    using blocking = gemm_blocking<decltype(kernel)>;
    static_assert(sizeof(blocking) <= sizeof p.out->blocking && std::is_trivially_copyable_v<blocking>);
    const blocking* const made = new (p.out->blocking) blocking(*p.g);
    p.out->scratch_bytes = made->scratch_bytes();
    p.out->run = [](const detail::gemm_prepared& prepared, const detail::gemm_args& g,
                    const detail::gemm_pointers& pointers, void* memory) {
      alignas(64) char small[detail::gemm_small_scratch];
      gemm_driver<decltype(kernel)>(g, *reinterpret_cast<const blocking*>(prepared.blocking), pointers)
          .run(memory != nullptr ? static_cast<char*>(memory) : small);
    };
  });
}

inline void gemm_pack(const detail::gemm_pack_args& g) {
  gemm_with_kernel(g.a_type, g.b.type, g, [&](auto kernel) {
    using kernel_type = decltype(kernel);
    gemm_blocking<kernel_type> blocking;
    blocking.set_depth(g.b.rows);
    *g.bytes = blocking.packed_bytes(g.b.cols);
    if (g.out != nullptr) gemm_pack_panels(g.b, 0, blocking, 0, g.b.cols, static_cast<char*>(g.out), g.exec);
  });
}

inline void gemm_pack_pair(const detail::gemm_pack_pair_args& g) {
  gemm_with_kernel(g.a_type, g.weight.type, g, [&](auto kernel) {
    using kernel_type = decltype(kernel);
    gemm_blocking<kernel_type> forward, backward;
    forward.set_depth(g.weight.cols);
    backward.set_depth(g.weight.rows);
    *g.forward_bytes = forward.packed_bytes(g.weight.rows);
    *g.backward_bytes = backward.packed_bytes(g.weight.cols);
    if (g.forward == nullptr) return;
    if constexpr (std::is_same_v<typename kernel_type::accumulator, float>)  // gemm.hpp checks
      gemm_pack_both(g.weight, forward, backward, static_cast<char*>(g.forward),
                     static_cast<char*>(g.backward), g.exec);
  });
}

EINKORN_END_LEVEL
