/// What quantize.hpp computes, as plain loops. The one product of f32 that decides how a value is rounded is
/// taken in f32, so that the bytes can be compared for equality.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE
namespace reference {

struct quantized_row {
  std::vector<int> q;
  float scale = 0;
  int zero = 0, sum = 0;
};

/// affine: 0..255 with a zero; else -127..127.
template <class T>
quantized_row quantize_row(const matrix_view<T>& x, index row, bool affine) {
  quantized_row result;
  result.q.resize(static_cast<std::size_t>(x.cols));
  double lo = 0, hi = 0;
  for (index c = 0; c < x.cols; ++c) {
    const double v = static_cast<float>(x(row, c));
    if (!std::isfinite(v)) {
      result.scale = std::numeric_limits<float>::quiet_NaN();
      return result;
    }
    lo = std::min(lo, v);
    hi = std::max(hi, v);
  }
  const double range = affine ? hi - lo : std::max(-lo, hi), steps = affine ? 255 : 127;
  if (range < 0x1p-100) return result;
  result.scale = static_cast<float>(range / steps);
  const auto factor = static_cast<float>(steps / range);
  if (affine) result.zero = static_cast<int>(std::nearbyint(static_cast<float>(-lo) * factor));
  for (index c = 0; c < x.cols; ++c) {
    const int q = static_cast<int>(std::nearbyint(static_cast<float>(x(row, c)) * factor)) + result.zero;
    result.q[static_cast<std::size_t>(c)] = affine ? std::clamp(q, 0, 255) : std::clamp(q, -127, 127);
    result.sum += result.q[static_cast<std::size_t>(c)];
  }
  return result;
}

}  // namespace reference
EINKORN_END_NAMESPACE
