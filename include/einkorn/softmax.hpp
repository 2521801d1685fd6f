/// Softmax of the rows of a matrix, forward and backward.
#pragma once

#include "detail/row_checks.hpp"
#include "detail/softmax_args.hpp"
#include "detail/streaming.hpp"
#include "isa.hpp"

EINKORN_BEGIN_NAMESPACE

/// y = softmax(scale * x + mask) along each row: exp(v - max) / sum(exp(v - max)).
///
/// x, y: rows x cols, each f32, bf16 or fp16; y may be x itself. Elements at or beyond the row's length, or
/// with a mask of -infinity, are skipped: they get 0, and NaN or infinity there does not leak. A row with
/// nothing left is all 0. NaN or +infinity elsewhere makes the row NaN.
/// Error per element, with v = scale * x + mask and m the row's maximum:
/// (8 + 4 max|v| + cols / 32) * 2^-23 * y + eps(y) * y. lse: (8 + 4 max|v| + cols / 32) * 2^-23.
/// Same ISA, same bits, for any number of threads. Allocates nothing.
/// Throws einkorn::error on a shape or type mismatch, before y is touched.
/// Options: detail/softmax_args.hpp. Truth: reference/softmax.hpp
inline void softmax(const any_matrix& x, const any_output& y, const softmax_options& options = {},
                    const executor& exec = default_executor()) {
  const char* const function = "softmax";
  detail::require_real(function, "x", x);
  detail::require_real(function, "y", y);
  detail::require_same_shape(function, "y", y, "x", x);
  detail::require_same_or_apart(function, "y", y, "x", x);
  if (const any_matrix& mask = options.mask) {
    detail::require_f32(function, "mask", mask);
    if (mask.rows != 1) detail::require_equal(function, "mask.rows", mask.rows, "x.rows", x.rows);
    detail::require_equal(function, "mask.cols", mask.cols, "x.cols", x.cols);
  }
  if (!options.lengths.empty()) {
    detail::require_size(function, "lengths.size", options.lengths, "x.rows", x.rows);
    for (std::size_t row = 0; row < options.lengths.size(); ++row)
      if (options.lengths[row] < 0 || options.lengths[row] > x.cols) [[unlikely]]
        detail::fail("softmax: lengths[" + std::to_string(row) + "] " + std::to_string(options.lengths[row]) +
                     " is not in [0, x.cols " + std::to_string(x.cols) + "]");
  }
  if (!options.lse.empty()) detail::require_size(function, "lse.size", options.lse, "x.rows", x.rows);
  detail::kernels().softmax({x, y, options.mask, options.lengths.empty() ? nullptr : options.lengths.data(),
                             options.lse.empty() ? nullptr : options.lse.data(), options.scale,
                             y.data != x.data && detail::streams({x, y}), exec});
}

/// dx = scale * y * (dy - sum(y * dy)) along each row: the gradient of softmax with respect to x.
///
/// y, dy, dx: rows x cols, each f32, bf16 or fp16; dx may be y or dy. Where y is 0, masked or not, dx is 0
/// whatever dy holds. Error per element: scale * y * ((4 + cols / 32) * 2^-23 * (|dy| + sum|y * dy|)), then
/// eps(dx) * |dx|. Threads, allocation and errors as softmax. Truth: reference/softmax.hpp
inline void softmax_backward(const any_matrix& y, const any_matrix& dy, const any_output& dx, float scale = 1,
                             const executor& exec = default_executor()) {
  const char* const function = "softmax_backward";
  detail::require_real(function, "y", y);
  detail::require_real(function, "dy", dy);
  detail::require_real(function, "dx", dx);
  detail::require_same_shape(function, "dy", dy, "y", y);
  detail::require_same_shape(function, "dx", dx, "y", y);
  detail::require_same_or_apart(function, "dx", dx, "y", y);
  detail::require_same_or_apart(function, "dx", dx, "dy", dy);
  detail::kernels().softmax_backward(
      {y, dy, dx, scale, detail::apart(dx, {y, dy}) && detail::streams({y, dy, dx}), exec});
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
