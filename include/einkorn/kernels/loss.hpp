/// Cross-entropy: one pass over a row for the log of the sum of exponentials, one that writes the gradient.
#pragma once

#include "../detail/level.hpp"
#include "../loss.hpp"
#include "elements.hpp"
#include "math.hpp"
#include "parallel.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

inline float first_lane(vf x) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_cvtss_f32(x);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  return _mm256_cvtss_f32(x);
#else
  return _mm_cvtss_f32(x);
#endif
}

struct row_statistics {
  float base, sum;  // sum of exp(x - base)
};

/// A row longer than L1 is read once: its sum is rescaled when a block of 1024 raises the maximum.
template <class Row>
inline row_statistics exp_sum(Row x, index n) {
  constexpr index block = 1024;
  const float lowest = -__builtin_inff();
  float largest = lowest, base = 0, total = 0;
  for (index first = 0; first < n; first += block) {
    const index end = first + block < n ? first + block : n;
    vf top = broadcast(lowest);
    index i = first;
    for (; i + vf_size <= end; i += vf_size) top = math::at_least(top, load(x + i));
    if (i < end) top = math::at_least(top, load_first(x + i, end - i, lowest));
    const float block_largest = reduce_max(top);
    if (block_largest > largest) {
      largest = block_largest;
      // Before the first finite value total is 0 and stays it; base is never -infinity, whose difference
      // to itself is NaN.
      if (total != 0) total *= first_lane(exp(broadcast(base - largest)));
      base = largest;
    }
    // A NaN makes the total NaN here, whatever the maximum made of it.
    const vf offset = broadcast(base);
    vf even = broadcast(0.0f), odd = broadcast(0.0f);
    for (i = first; i + 2 * vf_size <= end; i += 2 * vf_size) {
      even += exp(load(x + i) - offset);
      odd += exp(load(x + i + vf_size) - offset);
    }
    for (; i + vf_size <= end; i += vf_size) even += exp(load(x + i) - offset);
    if (i < end) odd += exp(load_first(x + i, end - i, lowest) - offset);
    total += reduce_add(even + odd);
  }
  return {base, total};
}

template <class Row>
inline void store_zeros(Row out, index first, index end) {
  index i = first;
  for (; i + vf_size <= end; i += vf_size) store(out + i, broadcast(0.0f));
  if (i < end) store_first(out + i, broadcast(0.0f), end - i);
}

/// dlogits = factor * (softmax - onehot); x may be out.
template <class In, class Out>
inline void write_gradient(In x, Out out, index n, index target, row_statistics s, float factor) {
  const float at_target = first_lane(exp(load_first(x + target, 1) - broadcast(s.base)));
  const vf scale = broadcast(factor / s.sum), base = broadcast(s.base);
  index i = 0;
  for (; i + vf_size <= n; i += vf_size) store(out + i, exp(load(x + i) - base) * scale);
  if (i < n) store_first(out + i, exp(load_first(x + i, n - i) - base) * scale, n - i);
  store_first(out + target, broadcast(factor * (at_target / s.sum - 1.0f)), 1);
}

inline void cross_entropy(const detail::cross_entropy_args& args) {
  const index rows = args.logits.rows, cols = args.logits.cols;
  const bool gradient = args.dlogits.data != nullptr;
  const index task_rows = cols > 0 && cols < 16384 ? 16384 / cols : 1;
  const auto run = [&](auto x, auto out) {
    parallel_for(args.exec, (rows + task_rows - 1) / task_rows, [&](index task) {
      const index end = (task + 1) * task_rows < rows ? (task + 1) * task_rows : rows;
      for (index row = task * task_rows; row < end; ++row) {
        const index classes = args.lengths != nullptr ? args.lengths[row] : cols;
        const index target = args.targets[row];
        if (target == args.ignore_index || target < 0 || target >= classes) {
          args.losses[row] = 0;
          if (gradient) store_zeros(out.at(row, 0), 0, cols);
          continue;
        }
        const auto in = x.at(row, 0);
        const row_statistics s = exp_sum(in, classes);
        const float log_sum = first_lane(log(broadcast(s.sum)));
        const float logit = first_lane(load_first(in + target, 1));
        args.losses[row] =
            (static_cast<double>(s.base) - static_cast<double>(logit)) + static_cast<double>(log_sum);
        if (gradient) {
          write_gradient(in, out.at(row, 0), classes, target, s, args.factor);
          store_zeros(out.at(row, 0), classes, cols);
        }
      }
    });
  };
  with_rows(run, args.logits, gradient ? args.dlogits : args.logits);
}

EINKORN_END_LEVEL
