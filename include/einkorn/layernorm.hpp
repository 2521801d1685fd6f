/// Layer normalisation of the rows of a matrix, forward and backward.
#pragma once

#include "allocation.hpp"
#include "detail/layernorm_args.hpp"
#include "detail/row_checks.hpp"
#include "detail/streaming.hpp"
#include "isa.hpp"

EINKORN_BEGIN_NAMESPACE

namespace detail {

inline void check_layernorm(const char* function, const any_matrix& x, std::span<const float> gamma,
                            std::span<const float> beta, const any_matrix& y,
                            const layernorm_outputs& outputs) {
  require_real(function, "y", y);
  require_same_shape(function, "y", y, "x", x);
  require_size(function, "gamma.size", gamma, "x.cols", x.cols);
  require_size(function, "beta.size", beta, "x.cols", x.cols);
  if (const any_matrix& narrow = outputs.narrow) {
    require_real(function, "narrow", narrow);
    require(narrow.type != dtype::f32, function, "narrow is f32, expected bf16 or fp16");
    require_f32(function, "y (with a narrow copy)", y);
    require_same_shape(function, "narrow", narrow, "x", x);
    require_same_or_apart(function, "narrow", narrow, "x", x);
    require_same_or_apart(function, "narrow", narrow, "y", y);
  }
  if (!outputs.mean.empty()) require_size(function, "mean.size", outputs.mean, "x.rows", x.rows);
  if (!outputs.rstd.empty()) require_size(function, "rstd.size", outputs.rstd, "x.rows", x.rows);
}

inline void check_layernorm_backward(const char* function, const any_matrix& dy, const any_matrix& x,
                                     std::span<const float> gamma, std::span<const float> mean,
                                     std::span<const float> rstd, std::span<float> dgamma,
                                     std::span<float> dbeta) {
  require_real(function, "dy", dy);
  require_same_shape(function, "dy", dy, "x", x);
  require_size(function, "gamma.size", gamma, "x.cols", x.cols);
  require_size(function, "mean.size", mean, "x.rows", x.rows);
  require_size(function, "rstd.size", rstd, "x.rows", x.rows);
  require_size(function, "dgamma.size", dgamma, "x.cols", x.cols);
  require_size(function, "dbeta.size", dbeta, "x.cols", x.cols);
}
}  // namespace detail

/// y = (x - mean) * rstd * gamma + beta along each row, rstd = 1 / sqrt(mean((x - mean)^2) + eps).
///
/// x, y: rows x cols, each f32, bf16 or fp16; y may be x itself. gamma, beta: cols. outputs.narrow: rows x
/// cols. Statistics in f32, in two passes over the row. NaN and infinity propagate within their row. Error
/// per element, with u = (2 + cols / 32) * 2^-23, a the row's largest |x| and s = a * rstd: (4 + s) * u *
/// (|xhat * gamma| + |gamma|) + 2^-23 * |y|, then eps(y) * |y|. Same ISA, same bits, for any number of
/// threads. Allocates nothing. Throws einkorn::error on a shape or type mismatch, before anything is written.
/// Outputs: detail/layernorm_args.hpp. Truth: reference/layernorm.hpp
inline void layernorm(const any_matrix& x, std::span<const float> gamma, std::span<const float> beta,
                      float eps, const any_output& y, const layernorm_outputs& outputs = {},
                      const executor& exec = default_executor()) {
  const char* const function = "layernorm";
  detail::require_real(function, "x", x);
  detail::check_layernorm(function, x, gamma, beta, y, outputs);
  detail::require_same_or_apart(function, "y", y, "x", x);
  const bool streams = detail::streams({x, y, outputs.narrow});
  detail::kernels().layernorm({x, y, outputs.narrow, gamma.data(), beta.data(),
                               outputs.mean.empty() ? nullptr : outputs.mean.data(),
                               outputs.rstd.empty() ? nullptr : outputs.rstd.data(), eps,
                               streams && y.data != x.data, streams && outputs.narrow.data != x.data, exec});
}

/// The gradients of layernorm. With xhat = (x - mean) * rstd and g = dy * gamma, along each row
///   dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),
/// and over all rows dgamma = sum(dy * xhat), dbeta = sum(dy), added to what is there when `accumulate`.
///
/// dy, x, dx: rows x cols, each f32, bf16 or fp16; dx may be dy or x. mean, rstd: as the forward call wrote
/// them. dgamma and dbeta are summed in f32 over fixed blocks of rows and then in a tree over the blocks:
/// same ISA, same bits, for any number of threads. Errors as layernorm; the first call of a shape allocates
/// scratch memory for the calling thread. Truth: reference/layernorm.hpp
inline void layernorm_backward(const any_matrix& dy, const any_matrix& x, std::span<const float> gamma,
                               std::span<const float> mean, std::span<const float> rstd, const any_output& dx,
                               std::span<float> dgamma, std::span<float> dbeta, bool accumulate = false,
                               const executor& exec = default_executor()) {
  const char* const function = "layernorm_backward";
  detail::require_real(function, "x", x);
  detail::require_real(function, "dx", dx);
  detail::check_layernorm_backward(function, dy, x, gamma, mean, rstd, dgamma, dbeta);
  detail::require_same_shape(function, "dx", dx, "x", x);
  detail::require_same_or_apart(function, "dx", dx, "dy", dy);
  detail::require_same_or_apart(function, "dx", dx, "x", x);
  workspace_lease memory(nullptr);
  auto* const partial = static_cast<float*>(
      memory.reserve(detail::layernorm_partial_size(x.rows, x.cols) * static_cast<index>(sizeof(float))));
  const bool streams = dx.data != dy.data && dx.data != x.data && detail::streams({dy, x, dx});
  detail::kernels().layernorm_backward({dy, x, dx, gamma.data(), mean.data(), rstd.data(), dgamma.data(),
                                        dbeta.data(), partial, accumulate, streams, exec});
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
