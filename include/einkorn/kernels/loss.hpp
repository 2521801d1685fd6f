/// Cross-entropy: one pass over a row for the log of the sum of exponentials, one that writes the gradient.
#pragma once

#include "../detail/level.hpp"
#include "../loss.hpp"
#include "elements.hpp"
#include "math.hpp"
#include "parallel.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

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
    vf top = broadcast(lowest), other_top = top;
    index i = first;
    for (; i + 2 * vf_size <= end; i += 2 * vf_size) {
      const two_vectors v = load_two(x + i);
      top = math::at_least(top, v.first);
      other_top = math::at_least(other_top, v.second);
    }
    top = max(top, other_top);
    for (; i + vf_size <= end; i += vf_size) top = math::at_least(top, load(x + i));
    if (i < end) top = math::at_least(top, load_first(x + i, end - i, lowest));
    const float block_largest = reduce_max(top);
    if (block_largest > largest) {
      largest = block_largest;
      // Before the first finite value total is 0 and stays it; base is never -infinity, whose difference
      // to itself is NaN.
      if (total != 0) total *= first_lane(exp2(broadcast((base - largest) * math::log2_e)));
      base = largest;
    }
    // A NaN makes the total NaN here, whatever the maximum made of it.
    const vf log2_e = broadcast(math::log2_e), offset = broadcast(base);
    const auto power = [&](auto v) { return scaled_exp2((v - offset) * log2_e); };
    vf even = broadcast(0.0f), odd = broadcast(0.0f);
    for (i = first; i + 2 * vf_size <= end; i += 2 * vf_size) {
      const two_vectors e = power(load_two(x + i));
      even += e.first;
      odd += e.second;
    }
    for (; i + vf_size <= end; i += vf_size) even += power(load(x + i));
    if (i < end) odd += power(load_first(x + i, end - i, lowest));
    total += reduce_add(even + odd) / exp2_scale;
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
inline void write_gradient(In x, Out out, index n, index target, row_statistics s, float factor,
                           bool past_caches) {
  const vf scale = broadcast(factor / s.sum / exp2_scale), log2_e = broadcast(math::log2_e),
           offset = broadcast(s.base);
  const auto power = [&](auto v) { return scaled_exp2((v - offset) * log2_e); };
  const auto gradient = [&](auto v) { return power(v) * scale; };
  // As in the sum: 0 for one class.
  const float at_target = first_lane(power(load_first(x + target, 1))) / exp2_scale;
  index i = 0;
  for (; i + 2 * vf_size <= n; i += 2 * vf_size) {
    put_two(out + i, gradient(load_two(x + i)), past_caches);
  }
  for (; i + vf_size <= n; i += vf_size) put(out + i, gradient(load(x + i)), past_caches);
  if (i < n) store_first(out + i, gradient(load_first(x + i, n - i)), n - i);
  if (past_caches) streaming_done();
  store_first(out + target, broadcast(factor * (at_target / s.sum - 1.0f)), 1);
}

inline void cross_entropy(const detail::cross_entropy_args& args) {
  const index rows = args.logits.rows, cols = args.logits.cols;
  const bool gradient = args.dlogits.data != nullptr;
  const auto run = [&](auto x, auto out) {
    parallel_rows(args.exec, rows, cols, [&](index first_row, index end_row) {
      for (index row = first_row; row < end_row; ++row) {
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
          write_gradient(in, out.at(row, 0), classes, target, s, args.factor,
                         args.streams && can_stream(out.at(row, 0)));
          store_zeros(out.at(row, 0), classes, cols);
        }
      }
    });
  };
  with_rows(run, args.logits, gradient ? args.dlogits : args.logits);
}

EINKORN_END_LEVEL
