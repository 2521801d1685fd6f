/// What activation.hpp computes, as plain loops in double: the truth of its tests.
#pragma once

#include <cmath>
#include <vector>

#include "../activation.hpp"
#include "gemm.hpp"  // activate(activation, double), element()

EINKORN_BEGIN_NAMESPACE
namespace reference {

inline double activate_derivative(activation act, double x) {
  const double pi = 3.14159265358979323846;
  switch (act) {
    case activation::gelu:
      return 0.5 * std::erfc(-x * std::sqrt(0.5)) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * pi);
    case activation::gelu_tanh: {
      const double t = std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * x * x * x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x);
    }
    case activation::relu:
      return x < 0 ? 0 : x > 0 ? 1 : 0 * x;
    case activation::tanh: {
      const double t = std::tanh(x);
      return 1 - t * t;
    }
    default:
      return 1;
  }
}

/// rows * cols results, before they are rounded to the type of y.
inline std::vector<double> activate(const any_matrix& x, activation act) {
  std::vector<double> y;
  for (index row = 0; row < x.rows; ++row)
    for (index col = 0; col < x.cols; ++col) y.push_back(activate(act, element(x, row, col)));
  return y;
}

struct activate_backward_result {
  std::vector<double> dx, db;
};

inline activate_backward_result activate_backward(const any_matrix& dy, const any_matrix& pre,
                                                  activation act) {
  activate_backward_result result;
  result.db.assign(static_cast<std::size_t>(pre.cols), 0.0);
  for (index row = 0; row < pre.rows; ++row) {
    for (index col = 0; col < pre.cols; ++col) {
      const double d = element(dy, row, col) * activate_derivative(act, element(pre, row, col));
      result.dx.push_back(d);
      result.db[static_cast<std::size_t>(col)] += d;
    }
  }
  return result;
}

inline std::vector<double> column_sum(const any_matrix& x) {
  std::vector<double> sums(static_cast<std::size_t>(x.cols), 0.0);
  for (index row = 0; row < x.rows; ++row)
    for (index col = 0; col < x.cols; ++col) sums[static_cast<std::size_t>(col)] += element(x, row, col);
  return sums;
}

}  // namespace reference
EINKORN_END_NAMESPACE
