/// The checks of gemm.hpp, on type-erased matrices: nothing is read or written before they pass.
#pragma once

#include <algorithm>

#include "../error.hpp"
#include "gemm_args.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {

/// Rows of `width` bytes, `pitch` bytes apart, from `begin`.
struct footprint {
  std::uintptr_t begin = 0;
  index height = 0, width = 0, pitch = 0;
  std::uintptr_t end() const noexcept {
    return begin + static_cast<std::uintptr_t>((height - 1) * pitch + width);
  }
};

inline footprint footprint_of(const any_matrix& m, index offset = 0) noexcept {
  const index size = size_of(m.type), height = m.transposed ? m.cols : m.rows;
  return {reinterpret_cast<std::uintptr_t>(m.data) + static_cast<std::uintptr_t>(offset * size), height,
          (m.transposed ? m.rows : m.cols) * size, height > 1 ? m.stride * size : 0};
}

/// Whether they share a byte. Column blocks of one matrix, equal in pitch, are told apart exactly; otherwise
/// interleaved rows count as shared.
inline bool overlap(const footprint& a, const footprint& b) noexcept {
  if (a.height <= 0 || a.width <= 0 || b.height <= 0 || b.width <= 0) return false;
  if (a.end() <= b.begin || b.end() <= a.begin) return false;
  const index pitch = a.height > 1 ? a.pitch : b.pitch;
  if (pitch == 0 || (a.height > 1 && b.height > 1 && a.pitch != b.pitch)) return true;
  const bool a_first = a.begin <= b.begin;
  const index distance = static_cast<index>(a_first ? b.begin - a.begin : a.begin - b.begin) % pitch;
  const index first_width = a_first ? a.width : b.width, second_width = a_first ? b.width : a.width;
  return distance < first_width || distance + second_width > pitch;
}

/// Every matrix of batch x against every one of batch y; equal_index: only those of the same number.
inline bool batches_overlap(const any_matrix& x, index stride_x, const any_matrix& y, index stride_y,
                            index count) noexcept {
  if (count == 1) return overlap(footprint_of(x), footprint_of(y));
  const auto whole = [count](const any_matrix& m, index stride) {
    footprint all = footprint_of(m);
    if (stride < 0) all.begin -= static_cast<std::uintptr_t>(-stride * (count - 1) * size_of(m.type));
    all.width = (all.height - 1) * all.pitch + all.width +
                (stride < 0 ? -stride : stride) * (count - 1) * size_of(m.type);
    all.height = 1;
    return all;
  };
  if (!overlap(whole(x, stride_x), whole(y, stride_y))) return false;
  // For each matrix of x those of y that begin before its end and end after its beginning; from y's lowest
  // up.
  const index step = (stride_y < 0 ? -stride_y : stride_y) * size_of(y.type);
  const footprint lowest = footprint_of(y, stride_y < 0 ? stride_y * (count - 1) : 0);
  for (index i = 0; i < (stride_x == 0 ? 1 : count); ++i) {
    const footprint one = footprint_of(x, i * stride_x);
    const auto before_end = static_cast<index>(one.end() - lowest.begin);
    const auto after_begin = static_cast<index>(one.begin - lowest.end());
    const index first = step == 0 || after_begin < 0 ? 0 : after_begin / step;
    const index last = step == 0 || before_end < 0 ? 0 : std::min(before_end / step, count - 1);
    for (index j = first; j <= last; ++j) {
      footprint other = lowest;
      other.begin += static_cast<std::uintptr_t>(j * step);
      if (overlap(one, other)) return true;
    }
  }
  return false;
}

/// The matrices of a batch that is written.
inline void require_apart(const char* name, const any_matrix& m, index stride, index count) {
  const index distance = stride < 0 ? -stride : stride;
  if (distance >= (m.rows - 1) * m.stride + m.cols) return;
  for (index i = 1; i < count; ++i)
    if (overlap(footprint_of(m), footprint_of(m, i * distance)))
      fail(std::string("gemm: the matrices of ") + name + " overlap each other: stride_" + name +
           " is too small");
}

inline bool is_real(dtype type) noexcept { return type <= dtype::fp16; }

inline void check_operand_types(const char* function, dtype a, dtype b) {
  const bool integers = (a == dtype::u8 || a == dtype::s8) && b == dtype::s8;
  if (!integers && !(is_real(a) && is_real(b))) [[unlikely]]
    fail(std::string(function) + ": no product of a " + name(a) + " with b " + name(b));
}

[[gnu::noinline]] inline void check_gemm_epilogue(const gemm_args& g) {
  const epilogue& e = g.e;
  const any_matrix &pre = e.preactivation, &residual = e.residual;
  if (g.c.type == dtype::i32) {
    require(e.alpha == 1 && (e.beta == 0 || e.beta == 1), "gemm",
            "an i32 result needs alpha 1 and beta 0 or 1");
    require(e.bias == nullptr && e.act == activation::none && pre.data == nullptr &&
                residual.data == nullptr && !e.dequantize.any(),
            "gemm", "an i32 result takes no bias, activation, preactivation, residual or dequantization");
    return;
  }
  if (e.dequantize.any()) {
    require(!is_real(g.a.type), "gemm", "dequantize is for products of int8");
    require(g.batch == 1, "gemm", "dequantize is not for batches");
    require((e.dequantize.row_zero == nullptr) == (e.dequantize.col_sum == nullptr), "gemm",
            "dequantize.row_zero and dequantize.col_sum go together");
  }
  if (pre.data != nullptr) {
    require_plain("gemm", "preactivation", pre);
    require_same_shape("gemm", "preactivation", pre, "c", g.c);
    require(is_real(pre.type), "gemm", "preactivation must be f32, bf16 or fp16");
    const auto shares = [&](const any_matrix& m, index stride) {
      return batches_overlap(pre, g.batch_preactivation, m, stride, g.batch);
    };
    require(!shares(g.c, g.batch_c) && !shares(g.a, g.batch_a) && !shares(g.b, g.batch_b), "gemm",
            "preactivation overlaps a, b or c");
    require(residual.data == nullptr || !shares(residual, g.batch_residual), "gemm",
            "preactivation overlaps residual");
    require(g.batch == 1 || g.batch_preactivation != 0, "gemm",
            "preactivation needs a batch stride of its own");
    require_apart("preactivation", pre, g.batch_preactivation, g.batch);
  }
  if (residual.data != nullptr) {
    require_plain("gemm", "residual", residual);
    require_same_shape("gemm", "residual", residual, "c", g.c);
    require(is_real(residual.type), "gemm", "residual must be f32, bf16 or fp16");
    const bool is_c = residual.data == g.c.data && residual.type == g.c.type &&
                      (residual.stride == g.c.stride || g.c.rows <= 1) &&
                      (g.batch == 1 || g.batch_residual == g.batch_c);
    require(is_c || !batches_overlap(residual, g.batch_residual, g.c, g.batch_c, g.batch), "gemm",
            "residual overlaps c without being c");
  }
}

/// b.data is null when B is packed.
inline void check_gemm(const gemm_args& g) {
  require_matrix("gemm", "a", g.a);
  if (g.packed == nullptr) require_matrix("gemm", "b", g.b);
  require_plain("gemm", "c", g.c);
  if (g.b.rows != g.a.cols) [[unlikely]]
    fail_unequal("gemm", "b.rows", g.b.rows, "a.cols", g.a.cols);
  if (g.c.rows != g.a.rows) [[unlikely]]
    fail_unequal("gemm", "c.rows", g.c.rows, "a.rows", g.a.rows);
  if (g.c.cols != g.b.cols) [[unlikely]]
    fail_unequal("gemm", "c.cols", g.c.cols, "b.cols", g.b.cols);
  check_operand_types("gemm", g.a.type, g.b.type);
  const bool integers = !is_real(g.a.type);
  if (!is_real(g.c.type) && !(integers && g.c.type == dtype::i32)) [[unlikely]]
    fail(std::string("gemm: a ") + name(g.a.type) + " does not give c of type " + name(g.c.type));
  if (g.batch < 0) [[unlikely]]
    fail("gemm: batch count " + std::to_string(g.batch) + " < 0");
  if (g.batch == 0 || g.c.rows == 0 || g.c.cols == 0) return;
  if (batches_overlap(g.c, g.batch_c, g.a, g.batch_a, g.batch)) [[unlikely]]
    fail("gemm: c overlaps a");
  if (g.packed == nullptr && batches_overlap(g.c, g.batch_c, g.b, g.batch_b, g.batch)) [[unlikely]]
    fail("gemm: c overlaps b");
  require_apart("c", g.c, g.batch_c, g.batch);
  const epilogue& e = g.e;
  if (e.preactivation.data != nullptr || e.residual.data != nullptr || g.c.type == dtype::i32 ||
      e.dequantize.any())
    check_gemm_epilogue(g);
}

}  // namespace detail
EINKORN_END_NAMESPACE
