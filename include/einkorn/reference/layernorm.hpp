/// What layernorm.hpp computes, as plain loops in double over one row.
#pragma once

#include <cmath>
#include <span>

#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE
namespace reference {

struct moments {
  double mean, rstd;
};

/// y = (x - mean) * rstd * gamma + beta; an empty row has mean 0 and variance 0.
inline moments layernorm_row(std::span<const double> x, std::span<const double> gamma,
                             std::span<const double> beta, double eps, std::span<double> y) {
  const double n = x.empty() ? 1 : static_cast<double>(x.size());
  double mean = 0, variance = 0;
  for (const double v : x) mean += v / n;
  for (const double v : x) variance += (v - mean) * (v - mean) / n;
  const double rstd = 1 / std::sqrt(variance + eps);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
  return {mean, rstd};
}

/// dx as layernorm_backward says; dgamma and dbeta are added to.
inline void layernorm_backward_row(std::span<const double> dy, std::span<const double> x,
                                   std::span<const double> gamma, moments m, std::span<double> dx,
                                   std::span<double> dgamma, std::span<double> dbeta) {
  const double n = x.empty() ? 1 : static_cast<double>(x.size());
  double mean_g = 0, mean_gx = 0;
  const auto xhat = [&](std::size_t i) { return (x[i] - m.mean) * m.rstd; };
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean_g += dy[i] * gamma[i] / n;
    mean_gx += dy[i] * gamma[i] * xhat(i) / n;
    dgamma[i] += dy[i] * xhat(i);
    dbeta[i] += dy[i];
  }
  for (std::size_t i = 0; i < x.size(); ++i) dx[i] = m.rstd * (dy[i] * gamma[i] - mean_g - xhat(i) * mean_gx);
}

}  // namespace reference
EINKORN_END_NAMESPACE
