/// Dropout, and dropout + residual + layer normalisation in one pass; forward and backward.
#pragma once

#include "detail/dropout_args.hpp"
#include "detail/streaming.hpp"
#include "isa.hpp"
#include "layernorm.hpp"

EINKORN_BEGIN_NAMESPACE

/// y = x * mask, mask = 0 or 65536 / (65536 - t) as dropout_spec says; p == 0 is a conversion.
///
/// x, y: rows x cols, each f32, bf16 or fp16; y may be x itself. NaN and infinity propagate (0 * NaN is NaN).
/// Exact but for the rounding of the mask and of the product to f32, and to the type of y; same bits at every
/// ISA level, for any number of threads. Allocates nothing. Throws einkorn::error on a shape or type
/// mismatch, sequences that do not cover the rows, or p outside [0, 1), before y is touched. Options:
/// detail/dropout_spec.hpp. Truth: reference/dropout.hpp
inline void dropout(const any_matrix& x, const any_output& y, const dropout_spec& spec,
                    const executor& exec = default_executor()) {
  const char* const function = "dropout";
  detail::require_real(function, "x", x);
  detail::require_real(function, "y", y);
  detail::require_same_shape(function, "y", y, "x", x);
  detail::require_same_or_apart(function, "y", y, "x", x);
  detail::require_dropout(function, spec, x.rows, x.cols);
  detail::kernels().dropout({x, y, spec, y.data != x.data && detail::streams({x, y}), exec});
}

/// dx = dy * mask, with the mask of the forward call that had the same spec. All else as dropout.
inline void dropout_backward(const any_matrix& dy, const any_output& dx, const dropout_spec& spec,
                             const executor& exec = default_executor()) {
  const char* const function = "dropout_backward";
  detail::require_real(function, "dy", dy);
  detail::require_real(function, "dx", dx);
  detail::require_same_shape(function, "dx", dx, "dy", dy);
  detail::require_same_or_apart(function, "dx", dx, "dy", dy);
  detail::require_dropout(function, spec, dy.rows, dy.cols);
  detail::kernels().dropout({dy, dx, spec, dx.data != dy.data && detail::streams({dy, dx}), exec});
}

/// sum = dropout(x) + residual; y = layernorm(sum): each matrix read or written once.
///
/// x: rows x cols, f32, bf16 or fp16 (what a matrix product wrote); residual, sum: f32; y: f32, bf16 or fp16,
/// and outputs.narrow a copy of it. sum may be residual or (f32) y or x; y may be residual.
/// sum is what backward reads. Errors per element as layernorm's plus
/// 2^-24 * (2 |sum| + |dropout(x)|) in sum itself.
/// Same ISA, same bits, for any number of threads. Allocates nothing.
/// Throws einkorn::error before anything is written. Options and outputs: detail/dropout_spec.hpp,
/// detail/layernorm_args.hpp. Truth: reference/dropout.hpp
inline void dropout_residual_layernorm(const any_matrix& x, const any_matrix& residual,
                                       std::span<const float> gamma, std::span<const float> beta, float eps,
                                       const dropout_spec& spec, const any_output& sum, const any_output& y,
                                       const layernorm_outputs& outputs = {},
                                       const executor& exec = default_executor()) {
  const char* const function = "dropout_residual_layernorm";
  detail::require_real(function, "x", x);
  detail::require_f32(function, "residual", residual);
  detail::require_f32(function, "sum", sum);
  detail::require_same_shape(function, "residual", residual, "x", x);
  detail::require_same_shape(function, "sum", sum, "x", x);
  detail::check_layernorm(function, x, gamma, beta, y, outputs);
  const struct {
    const char *output_name, *input_name;
    const any_matrix &output, &input;
  } pairs[] = {{"sum", "x", sum, x},
               {"sum", "residual", sum, residual},
               {"y", "x", y, x},
               {"y", "residual", y, residual},
               {"y", "sum", y, sum}};
  for (const auto& pair : pairs)
    detail::require_same_or_apart(function, pair.output_name, pair.output, pair.input_name, pair.input);
  if (outputs.narrow) {
    detail::require_same_or_apart(function, "narrow", outputs.narrow, "residual", residual);
    detail::require_same_or_apart(function, "narrow", outputs.narrow, "sum", sum);
  }
  detail::require_dropout(function, spec, x.rows, x.cols);
  const bool streams = detail::streams({x, residual, sum, y, outputs.narrow});
  detail::kernels().dropout_residual_layernorm(
      {x, residual, sum, y, outputs.narrow, gamma.data(), beta.data(),
       outputs.mean.empty() ? nullptr : outputs.mean.data(),
       outputs.rstd.empty() ? nullptr : outputs.rstd.data(), eps, spec,
       streams && detail::apart(sum, {x, residual, y}), streams && detail::apart(y, {x, residual, sum}),
       streams && detail::apart(outputs.narrow, {x}), exec});
}

/// The gradients of dropout_residual_layernorm. With d the gradient that layernorm_backward would give for
/// sum from dy + options.dy_added: dresidual = d, dx = d * mask; dgamma and dbeta as layernorm_backward.
///
/// dy: f32, bf16 or fp16; sum, dresidual: f32; dx: f32, bf16 or fp16. dresidual may be dy, dy_added or sum,
/// and dx may be dy, dy_added or sum, but dx is not dresidual. Leave dresidual empty when nobody needs it.
/// Threads, scratch memory and errors as layernorm_backward. Options: detail/dropout_args.hpp.
/// Truth: reference/dropout.hpp
inline void dropout_residual_layernorm_backward(
    const any_matrix& dy, const any_matrix& sum, std::span<const float> gamma, std::span<const float> mean,
    std::span<const float> rstd, const dropout_spec& spec, const any_output& dx, const any_output& dresidual,
    std::span<float> dgamma, std::span<float> dbeta,
    const dropout_residual_layernorm_backward_options& options = {},
    const executor& exec = default_executor()) {
  const char* const function = "dropout_residual_layernorm_backward";
  detail::require_f32(function, "sum", sum);
  detail::check_layernorm_backward(function, dy, sum, gamma, mean, rstd, dgamma, dbeta);
  detail::require_real(function, "dx", dx);
  detail::require_same_shape(function, "dx", dx, "sum", sum);
  if (options.dy_added) {
    detail::require_real(function, "dy_added", options.dy_added);
    detail::require_same_shape(function, "dy_added", options.dy_added, "sum", sum);
  }
  const struct {
    const char* name;
    const any_matrix& m;
  } inputs[] = {{"dy", dy}, {"sum", sum}, {"dy_added", options.dy_added}};
  for (const auto& input : inputs) detail::require_same_or_apart(function, "dx", dx, input.name, input.m);
  if (dresidual) {
    detail::require_f32(function, "dresidual", dresidual);
    detail::require_same_shape(function, "dresidual", dresidual, "sum", sum);
    for (const auto& input : inputs)
      detail::require_same_or_apart(function, "dresidual", dresidual, input.name, input.m);
    detail::require(dx.data != dresidual.data || sum.rows == 0 || sum.cols == 0, function,
                    "dx and dresidual are the same matrix");
    detail::require_same_or_apart(function, "dx", dx, "dresidual", dresidual);
  }
  detail::require_dropout(function, spec, sum.rows, sum.cols);
  workspace_lease memory(nullptr);
  auto* const partial = static_cast<float*>(
      memory.reserve(detail::layernorm_partial_size(sum.rows, sum.cols) * static_cast<index>(sizeof(float))));
  const bool streams = detail::streams({dy, options.dy_added, sum, dx, dresidual});
  detail::kernels().dropout_residual_layernorm_backward(
      {dy, options.dy_added, sum, dx, dresidual, gamma.data(), mean.data(), rstd.data(), dgamma.data(),
       dbeta.data(), partial, options.accumulate, streams && detail::apart(dx, {dy, options.dy_added, sum}),
       streams && detail::apart(dresidual, {dy, options.dy_added, sum}), spec, exec});
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
