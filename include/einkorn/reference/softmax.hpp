/// What softmax.hpp computes, as plain loops in double over one row.
#pragma once

#include <cmath>
#include <limits>
#include <span>

#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE
namespace reference {

/// y = softmax(scale * x + mask) over the first `length` elements, 0 beyond; mask may be empty. Elements
/// whose mask is -infinity do not exist. Returns log(sum(exp(scale * x + mask))).
inline double softmax_row(std::span<const double> x, std::span<const double> mask, std::size_t length,
                          double scale, std::span<double> y) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const auto value = [&](std::size_t i) {
    if (i >= length || (!mask.empty() && mask[i] == -infinity)) return -infinity;
    return scale * x[i] + (mask.empty() ? 0 : mask[i]);
  };
  double maximum = -infinity, sum = 0;
  bool nan = false;
  for (std::size_t i = 0; i < x.size(); ++i) {
    nan = nan || std::isnan(value(i));
    maximum = std::fmax(maximum, value(i));
  }
  if (maximum == -infinity) maximum = 0;  // nothing is left, and every exp is 0
  for (std::size_t i = 0; i < x.size(); ++i) sum += std::exp(value(i) - maximum);
  for (std::size_t i = 0; i < x.size(); ++i)
    y[i] = i >= length ? 0 : nan ? std::nan("") : sum == 0 ? 0 : std::exp(value(i) - maximum) / sum;
  return maximum + std::log(sum);
}

/// dx = scale * y * (dy - sum(y * dy)); where y is 0 nothing is read from dy.
inline void softmax_backward_row(std::span<const double> y, std::span<const double> dy, double scale,
                                 std::span<double> dx) {
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i)
    if (y[i] != 0) sum += y[i] * dy[i];
  for (std::size_t i = 0; i < y.size(); ++i) dx[i] = y[i] == 0 ? 0 : scale * y[i] * (dy[i] - sum);
}

}  // namespace reference
EINKORN_END_NAMESPACE
