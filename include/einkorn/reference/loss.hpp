/// What loss.hpp computes, as plain loops in double: the truth of its tests.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "../loss.hpp"
#include "gemm.hpp"  // element()

EINKORN_BEGIN_NAMESPACE
namespace reference {

struct cross_entropy_result {
  double loss = 0;  // the sum over rows that count, divided
  index counted = 0;
  std::vector<double> dlogits;  // rows * cols
};

inline cross_entropy_result cross_entropy(const any_matrix& logits, std::span<const std::int32_t> targets,
                                          const cross_entropy_options& options) {
  cross_entropy_result result;
  const auto cols = static_cast<std::size_t>(logits.cols);
  result.dlogits.assign(static_cast<std::size_t>(logits.rows) * cols, 0.0);
  for (index row = 0; row < logits.rows; ++row) {
    const auto r = static_cast<std::size_t>(row);
    const index classes = options.lengths.empty() ? logits.cols : options.lengths[r];
    const index target = targets[r];
    if (target == options.ignore_index || target < 0 || target >= classes) continue;
    ++result.counted;
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (index c = 0; c < classes; ++c) largest = std::fmax(largest, element(logits, row, c));
    for (index c = 0; c < classes; ++c) sum += std::exp(element(logits, row, c) - largest);
    const double lse = largest + std::log(sum);
    result.loss += (lse - element(logits, row, target)) / options.divisor;
    for (index c = 0; c < classes; ++c)
      result.dlogits[r * cols + static_cast<std::size_t>(c)] =
          static_cast<double>(options.scale) / options.divisor *
          (std::exp(element(logits, row, c) - lse) - (c == target ? 1.0 : 0.0));
  }
  return result;
}

}  // namespace reference
EINKORN_END_NAMESPACE
