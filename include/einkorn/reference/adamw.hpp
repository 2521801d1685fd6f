/// What adamw.hpp computes, as plain loops in double: the truth of its tests.
#pragma once

#include <cmath>
#include <span>

#include "../adamw.hpp"

EINKORN_BEGIN_NAMESPACE
namespace reference {

/// One step for one element, whose state is kept in double.
struct adamw_element {
  double param, m, v;
  void step(double grad, const adamw_options& o, bool decay) {
    const double g = static_cast<double>(o.grad_scale) * grad;
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const double bc1 = 1 - std::pow(o.beta1, static_cast<double>(o.t));
    const double bc2 = 1 - std::pow(o.beta2, static_cast<double>(o.t));
    if (decay) param *= 1 - o.lr * o.weight_decay;
    param -= o.lr / bc1 * m / (std::sqrt(v) / std::sqrt(bc2) + o.eps);
  }
};

inline double gradient_norm(std::span<const std::span<const float>> tensors) {
  long double sum = 0;
  for (const std::span<const float> tensor : tensors)
    for (const float g : tensor) sum += static_cast<long double>(g) * static_cast<long double>(g);
  return std::sqrt(static_cast<double>(sum));
}

}  // namespace reference
EINKORN_END_NAMESPACE
