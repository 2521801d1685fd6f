/// Cross-entropy over the rows of a matrix of logits, with its gradient in the same call.
#pragma once

#include <cmath>
#include <span>

#include "allocation.hpp"
#include "detail/row_checks.hpp"
#include "executor.hpp"
#include "types.hpp"

EINKORN_BEGIN_NAMESPACE

struct cross_entropy_options {
  std::int32_t ignore_index = -100;            // rows with this target do not count
  bool ignore_outside = false;                 // nor those whose target is no class of the row; else an error
  std::span<const std::int32_t> lengths = {};  // rows, or empty: only the first lengths[row] classes exist
  double divisor = 1;  // what the sum of losses is divided by: usually cross_entropy_count()
  float scale = 1;     // of the gradient only: a loss scale
};

namespace detail {
struct cross_entropy_args {
  any_matrix logits, dlogits;
  const std::int32_t* targets;  // -1: the row does not count is decided by `counts`
  const std::int32_t* lengths;
  std::int32_t ignore_index;
  float factor;    // of the gradient: scale / divisor
  double* losses;  // rows
  bool streams;
  executor exec;
};

inline std::int32_t classes_of_row(const any_matrix& logits, const cross_entropy_options& options,
                                   index row) noexcept {
  return options.lengths.empty() ? static_cast<std::int32_t>(logits.cols)
                                 : options.lengths[static_cast<std::size_t>(row)];
}

/// How many rows count; throws for a target that is neither a class nor to be ignored.
inline index check_targets(const char* function, const any_matrix& logits,
                           std::span<const std::int32_t> targets, const cross_entropy_options& options) {
  require_size(function, "targets.size", targets, "logits.rows", logits.rows);
  if (logits.cols > std::numeric_limits<std::int32_t>::max()) [[unlikely]]
    fail(std::string(function) + ": logits.cols " + std::to_string(logits.cols) + " does not fit in 32 bits");
  if (!options.lengths.empty())
    require_size(function, "lengths.size", options.lengths, "logits.rows", logits.rows);
  index counted = 0;
  for (index row = 0; row < logits.rows; ++row) {
    const std::int32_t classes = classes_of_row(logits, options, row);
    if (classes < 0 || classes > logits.cols) [[unlikely]]
      fail(std::string(function) + ": lengths[" + std::to_string(row) + "] " + std::to_string(classes) +
           " is not in [0, logits.cols " + std::to_string(logits.cols) + "]");
    const std::int32_t target = targets[static_cast<std::size_t>(row)];
    if (target == options.ignore_index) continue;
    if (target >= 0 && target < classes) {
      ++counted;
    } else if (!options.ignore_outside) [[unlikely]] {
      fail(std::string(function) + ": targets[" + std::to_string(row) + "] " + std::to_string(target) +
           " is not in [0, " + std::to_string(classes) + ") and not ignore_index " +
           std::to_string(options.ignore_index));
    }
  }
  return counted;
}
}  // namespace detail

EINKORN_END_NAMESPACE

#include "detail/streaming.hpp"  // after the arguments: header-only, it brings in the kernels

EINKORN_BEGIN_NAMESPACE

/// How many rows of `logits` count in the loss; only its shape is read. Throws as cross_entropy.
inline index cross_entropy_count(const any_matrix& logits, std::span<const std::int32_t> targets,
                                 const cross_entropy_options& options = {}) {
  return detail::check_targets("cross_entropy_count", logits, targets, options);
}

/// Returns sum over the rows that count of (lse(row) - logits(row, target)) / divisor, where lse is the log
/// of the sum of exp(logits) over the row's classes; 0 when no row counts. Where dlogits is given,
///   dlogits(row, c) = scale / divisor * (softmax(logits)(row, c) - (c == target))
/// and 0 in rows that do not count and beyond lengths[row], whose logits are not read.
///
/// logits, dlogits: rows x classes, each f32, bf16 or fp16; dlogits may be logits itself.
/// Per row in f32, losses added in double in the order of the rows: error of a row's loss
/// (8 + classes / 64 + 2 max|logits|) * 2^-23; of dlogits |scale / divisor| times that and eps(dlogits),
/// where |scale / divisor| / classes is at least 2^-60. NaN propagates. Same ISA, same bits, for any number
/// of threads. The first call of a number of rows allocates scratch memory for the calling thread. Throws
/// einkorn::error before dlogits is touched: shapes, types, a target that is neither a class nor to be
/// ignored, a divisor that is not positive although rows count. Truth: reference/loss.hpp
inline double cross_entropy(const any_matrix& logits, std::span<const std::int32_t> targets,
                            const cross_entropy_options& options = {}, const any_output& dlogits = {},
                            const executor& exec = default_executor()) {
  const char* const function = "cross_entropy";
  detail::require_real(function, "logits", logits);
  const index counted = detail::check_targets(function, logits, targets, options);
  if (dlogits) {
    detail::require_real(function, "dlogits", dlogits);
    detail::require_same_shape(function, "dlogits", dlogits, "logits", logits);
    detail::require_same_or_apart(function, "dlogits", dlogits, "logits", logits);
  }
  if (counted > 0 && !(options.divisor > 0)) [[unlikely]]
    detail::fail("cross_entropy: divisor " + detail::shown(options.divisor) + " is not positive, and " +
                 std::to_string(counted) + " rows count");
  workspace_lease scratch(nullptr);
  double* const losses = scratch.doubles(logits.rows + 1);
  const double factor = counted > 0 ? static_cast<double>(options.scale) / options.divisor : 0.0;
  detail::kernels().cross_entropy({logits, dlogits, targets.data(),
                                   options.lengths.empty() ? nullptr : options.lengths.data(),
                                   options.ignore_index, static_cast<float>(factor), losses,
                                   dlogits.data != logits.data && detail::streams({logits, dlogits}), exec});
  double sum = 0;
  for (index row = 0; row < logits.rows; ++row) sum += losses[row];
  return counted > 0 ? sum / options.divisor : 0.0;
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
