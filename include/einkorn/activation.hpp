/// GELU, ReLU and tanh over a matrix, forward and backward; column sums; conversion between types.
#pragma once

#include <span>

#include "allocation.hpp"
#include "detail/row_checks.hpp"
#include "epilogue.hpp"
#include "executor.hpp"
#include "types.hpp"

EINKORN_BEGIN_NAMESPACE

/// erf: x * Phi(x). tanh: x * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.
enum class gelu_form : std::uint8_t { erf, tanh };

namespace detail {
struct activate_args {
  any_matrix x, y;
  activation act;
  bool streams;
  executor exec;
};
struct activate_backward_args {
  any_matrix dy, pre, dx;
  activation act;
  float* db;       // null, or cols
  float* partial;  // column_sum_partial_size(rows, cols) where db is wanted
  bool streams;
  executor exec;
};
struct column_sum_args {
  any_matrix x;
  float* out;
  float* partial;
  bool accumulate;
  executor exec;
};

/// Column sums are added up over blocks of rows that depend on the shape only, then in a tree over blocks.
constexpr index column_sum_block_rows(index rows) noexcept { return rows <= 64 * 32 ? 32 : (rows + 63) / 64; }
constexpr index column_sum_blocks(index rows) noexcept {
  return (rows + column_sum_block_rows(rows) - 1) / column_sum_block_rows(rows);
}
/// Floats; the sums of a block start at a multiple of 16.
constexpr index column_sum_partial_stride(index cols) noexcept { return (cols + 15) / 16 * 16; }
constexpr index column_sum_partial_size(index rows, index cols) noexcept {
  return column_sum_blocks(rows) * column_sum_partial_stride(cols);
}
}  // namespace detail

EINKORN_END_NAMESPACE

#include "detail/streaming.hpp"  // after the arguments: header-only, it brings in the kernels

EINKORN_BEGIN_NAMESPACE

/// y = act(x), element by element.
///
/// x, y: rows x cols, each f32, bf16 or fp16; y may be x itself. Computed in f32. Error per element, before
/// the rounding to the type of y: 1 ulp for GELU with 3e-8 added (the tail below -5 is cut to 0), 1.6 ulp
/// for tanh, none for relu and none. NaN propagates; GELU of -infinity is -0.
/// Same ISA, same bits, for any number of threads. Allocates nothing.
/// Throws einkorn::error on a shape or type mismatch, before y is touched. Truth: reference/activation.hpp
inline void activate(const any_matrix& x, const any_output& y, activation act,
                     const executor& exec = default_executor()) {
  const char* const function = "activate";
  detail::require_real(function, "x", x);
  detail::require_real(function, "y", y);
  detail::require_same_shape(function, "y", y, "x", x);
  detail::require_same_or_apart(function, "y", y, "x", x);
  detail::kernels().activate({x, y, act, y.data != x.data && detail::streams({x, y}), exec});
}

/// dx = dy * act'(pre), where pre is what the forward call was given; where db is not empty, also
/// db[col] += sum over rows of dx, taken before dx is rounded to its type: the gradient of a bias.
///
/// dy, pre, dx: rows x cols, each f32, bf16 or fp16; dx may be dy or pre. db: cols, or empty.
/// Error per element: |dy| * (2 ulp of act'(pre) + 3e-8; tanh 5e-7), plus the rounding to the type of dx.
/// db is summed in f32 over fixed blocks of rows and then in a tree: same ISA, same bits, for any number of
/// threads. With db, the first call of a shape allocates scratch memory for the calling thread.
/// Throws einkorn::error before anything is written. Truth: reference/activation.hpp
inline void activate_backward(const any_matrix& dy, const any_matrix& pre, const any_output& dx,
                              activation act, std::span<float> db = {},
                              const executor& exec = default_executor()) {
  const char* const function = "activate_backward";
  detail::require_real(function, "dy", dy);
  detail::require_real(function, "pre", pre);
  detail::require_real(function, "dx", dx);
  detail::require_same_shape(function, "dy", dy, "pre", pre);
  detail::require_same_shape(function, "dx", dx, "pre", pre);
  detail::require_same_or_apart(function, "dx", dx, "dy", dy);
  detail::require_same_or_apart(function, "dx", dx, "pre", pre);
  workspace_lease scratch(nullptr);
  float* partial = nullptr;
  if (!db.empty()) {
    detail::require_size(function, "db.size", db, "pre.cols", pre.cols);
    partial = scratch.floats(detail::column_sum_partial_size(pre.rows, pre.cols));
  }
  const bool streams = detail::apart(dx, {dy, pre}) && detail::streams({dy, pre, dx});
  detail::kernels().activate_backward(
      {dy, pre, dx, act, db.empty() ? nullptr : db.data(), partial, streams, exec});
}

/// y = gelu(x): activate() by the form's name.
inline void gelu(const any_matrix& x, const any_output& y, gelu_form form = gelu_form::erf,
                 const executor& exec = default_executor()) {
  activate(x, y, form == gelu_form::erf ? activation::gelu : activation::gelu_tanh, exec);
}

/// dx = dy * gelu'(pre), db += column sums of dx: activate_backward() by the form's name.
inline void gelu_backward(const any_matrix& dy, const any_matrix& pre, const any_output& dx,
                          std::span<float> db = {}, gelu_form form = gelu_form::erf,
                          const executor& exec = default_executor()) {
  activate_backward(dy, pre, dx, form == gelu_form::erf ? activation::gelu : activation::gelu_tanh, db, exec);
}

/// out[col] = sum over rows of x(row, col), added to what is there when `accumulate`.
///
/// x: rows x cols, f32, bf16 or fp16; out: cols. f32 sums over fixed blocks of rows, then a tree over the
/// blocks: error (block rows + 8) * 2^-24 * sum|x|, with blocks of max(32, rows / 64) rows. Same ISA, same
/// bits, for any number of threads. The first call of a shape allocates scratch memory for the calling
/// thread. Throws einkorn::error before out is touched. Truth: reference/activation.hpp
inline void column_sum(const any_matrix& x, std::span<float> out, bool accumulate = false,
                       const executor& exec = default_executor()) {
  const char* const function = "column_sum";
  detail::require_real(function, "x", x);
  detail::require_size(function, "out.size", out, "x.cols", x.cols);
  workspace_lease scratch(nullptr);
  float* const partial = scratch.floats(detail::column_sum_partial_size(x.rows, x.cols));
  detail::kernels().column_sum({x, out.data(), partial, accumulate, exec});
}

/// y = x, rounded to the type of y: to nearest even; to bf16 denormals become 0, to fp16 they are kept.
///
/// x, y: rows x cols, each f32, bf16 or fp16. All else as activate().
inline void convert(const any_matrix& x, const any_output& y, const executor& exec = default_executor()) {
  const char* const function = "convert";
  detail::require_real(function, "x", x);
  detail::require_real(function, "y", y);
  detail::require_same_shape(function, "y", y, "x", x);
  detail::require_same_or_apart(function, "y", y, "x", x);
  detail::kernels().activate({x, y, activation::none, y.data != x.data && detail::streams({x, y}), exec});
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
