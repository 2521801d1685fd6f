/// Softmax and its gradient, row by row: a row is read from memory once and stays in L1 for the next passes.
#pragma once

#include <cmath>

#include "../detail/softmax_args.hpp"
#include "elements.hpp"
#include "math.hpp"

EINKORN_BEGIN_LEVEL

namespace softmax_rows {

/// Rows up to this length keep exp(v - max) in a buffer of 16 KiB; longer ones compute it twice.
inline constexpr index buffered_cols = 4096;

/// b in the lanes where a == key, else c.
inline vf where_equal(vf a, float key, vf b, vf c) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, broadcast(key), _CMP_EQ_OQ), c, b);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  return _mm256_blendv_ps(c, b, _mm256_cmp_ps(a, broadcast(key), _CMP_EQ_OQ));
#else
  const __m128 equal = _mm_cmpeq_ps(a, broadcast(key));
  return _mm_or_ps(_mm_and_ps(equal, b), _mm_andnot_ps(equal, c));
#endif
}

/// v = unit * value; below() is value - maximum, for the exponential; two() and two_below() of two vectors in
/// load_two's order. Here value = x or -x, so that the difference is of numbers as they are: the largest
/// gives exactly 0, however large it is.
template <class X>
struct unmasked_row {
  static constexpr bool any_order = true;
  X x;
  float unit;  // |scale|
  vf sign;     // that of the scale
  unmasked_row(X row, float scale)
      : x(row), unit(std::abs(scale)), sign(broadcast(scale < 0 ? -1.0f : 1.0f)) {}
  template <class Lanes>
  vf value(index i, const Lanes& lanes) const {
    return lanes(x + i) * sign;
  }
  template <class Lanes>
  vf below(vf maximum, index i, const Lanes& lanes) const {
    return math::product_minus(lanes(x + i), sign, maximum);
  }
  two_vectors two(index i) const { return load_two(x + i) * sign; }
  two_vectors two_below(vf maximum, index i) const {
    return math::product_minus(load_two(x + i), sign, maximum);
  }
};
/// scale * x + mask; where the mask is -infinity x does not count, whatever it is.
template <class X>
struct masked_row {
  static constexpr bool any_order = false;  // the mask is f32, x may be bf16
  static constexpr float unit = 1;
  X x;
  const float* mask;
  vf scale;
  template <class Lanes>
  vf value(index i, const Lanes& lanes) const {
    const vf m = lanes(mask + i);
    return where_equal(m, -INFINITY, broadcast(-INFINITY), fma(lanes(x + i), scale, m));
  }
  template <class Lanes>
  vf below(vf maximum, index i, const Lanes& lanes) const {
    return value(i, lanes) - maximum;
  }
  two_vectors two(index i) const { return {value(i, whole_vector{}), value(i + vf_size, whole_vector{})}; }
  two_vectors two_below(vf maximum, index i) const { return two(i) - maximum; }
};

/// max that keeps a NaN of neither operand out for good is not needed: a NaN makes the sum of exp NaN.
template <class Row>
inline float row_max(const Row& row, index n) {
  vf part[4];
  for (vf& p : part) p = broadcast(-INFINITY);
  index i = 0;
  for (; i + 4 * vf_size <= n; i += 4 * vf_size) {
    const two_vectors v = row.two(i), w = row.two(i + 2 * vf_size);
    part[0] = max(part[0], v.first);
    part[1] = max(part[1], v.second);
    part[2] = max(part[2], w.first);
    part[3] = max(part[3], w.second);
  }
  for (; i + vf_size <= n; i += vf_size) part[0] = max(part[0], row.value(i, whole_vector{}));
  if (i < n) {
    float lanes[vf_size];
    store(lanes, row.value(i, part_of_vector{n - i}));
    store(lanes, max(part[1], load_first(lanes, n - i, -INFINITY)));
    part[1] = load(lanes);
  }
  return reduce_max(max(max(part[0], part[1]), max(part[2], part[3])));
}

/// y[0, n) = softmax; the log-sum-exp goes to *lse where that is not null.
template <class Row, class Y>
inline void softmax_row(const Row& row, Y y, index n, float* lse, bool past_caches) {
  const float found = row_max(row, n);
  // With nothing left the maximum is -infinity; 0 in its place makes every exp 0, or NaN where a NaN is.
  const float maximum = found == -INFINITY ? 0.0f : found;
  const vf shift = broadcast(maximum), log2_unit = broadcast(row.unit * math::log2_e);
  alignas(64) float exps[buffered_cols];  // times exp2_scale
  const bool stored = n <= buffered_cols;
  four_sums sums;
  index paired = 0;  // up to here the exps stand in the order of row.two()
  for (; paired + 4 * vf_size <= n; paired += 4 * vf_size) {
    const auto add = [&](index i, vf& first_sum, vf& second_sum) {
      const two_vectors e = scaled_exp2(row.two_below(shift, i) * log2_unit);
      if (stored) {
        store(exps + i, e.first);
        store(exps + i + vf_size, e.second);
      }
      first_sum += e.first;
      second_sum += e.second;
    };
    add(paired, sums.part[0], sums.part[1]);
    add(paired + 2 * vf_size, sums.part[2], sums.part[3]);
  }
  for_vectors(n - paired, sums, [&](index k, const auto& lanes, vf& sum) {
    const vf e = scaled_exp2(row.below(shift, paired + k, lanes) * log2_unit);
    if (stored) lanes(exps + paired + k, e);
    sum += lanes.within_row(e);
  });
  const float total = sums.total();
  const vf factor = broadcast(total == 0 ? 0.0f : 1 / total);
  if (stored) {
    for (index i = 0; i < paired; i += 2 * vf_size) {
      const two_vectors v = two_vectors{load(exps + i), load(exps + i + vf_size)} * factor;
      if constexpr (Row::any_order) {
        put_two(y + i, v, past_caches);
      } else {
        put_in_order(y + i, v, past_caches);
      }
    }
    write_row(
        y + paired, n - paired, past_caches, [&](index k, const auto& lanes) __attribute__((always_inline)) {
          return lanes(exps + paired + k) * factor;
        });
  } else {
    write_row(
        y, n, past_caches, [&](index i, const auto& lanes) __attribute__((always_inline)) {
          return scaled_exp2(row.below(shift, i, lanes) * log2_unit) * factor;
        });
  }
  if (lse != nullptr)
    *lse = total == 0 ? -INFINITY : row.unit * maximum + first_lane(log(broadcast(total / exp2_scale)));
}

}  // namespace softmax_rows

inline void softmax(const detail::softmax_args& a) {
  using namespace softmax_rows;
  with_rows(
      [&](auto x, auto y) {
        parallel_rows(a.exec, a.x.rows, a.x.cols, [&](index first, index last) {
          for (index r = first; r < last; ++r) {
            const auto in = x.at(r, 0);
            const auto out = y.at(r, 0);
            const index n = a.lengths != nullptr ? a.lengths[r] : a.x.cols;
            const bool past_caches = a.streams && can_stream(out);
            float* lse = a.lse != nullptr ? a.lse + r : nullptr;
            if (a.mask) {
              const float* mask = row_of<const float>(a.mask, a.mask.rows == 1 ? 0 : r);
              softmax_row(masked_row<decltype(x.at(r, 0))>{in, mask, broadcast(a.scale)}, out, n, lse,
                          past_caches);
            } else {
              softmax_row(unmasked_row<decltype(x.at(r, 0))>(in, a.scale), out, n, lse, past_caches);
            }
            for_vectors(a.x.cols - n,
                        [&](index i, const auto& lanes) { lanes(out + n + i, broadcast(0.0f)); });
          }
          if (a.streams) streaming_done();
        });
      },
      a.x, a.y);
}

inline void softmax_backward(const detail::softmax_backward_args& a) {
  using softmax_rows::where_equal;
  const vf zero = broadcast(0.0f), scale = broadcast(a.scale);
  const index n = a.y.cols;
  const auto block = [&](auto y_rows, auto dy_rows, auto dx_rows, index first, index last) {
    for (index r = first; r < last; ++r) {
      const auto y = y_rows.at(r, 0);
      const auto dy = dy_rows.at(r, 0);
      const auto dx = dx_rows.at(r, 0);
      const bool past_caches = a.streams && can_stream(dx);
      four_sums sums;
      const auto add = [&](vf p, vf g, vf& sum) { sum += where_equal(p, 0.0f, zero, p * g); };
      index i = 0;
      for (; i + 4 * vf_size <= n; i += 4 * vf_size) {
        const two_vectors p = load_two(y + i), g = load_two(dy + i);
        const two_vectors q = load_two(y + i + 2 * vf_size), h = load_two(dy + i + 2 * vf_size);
        add(p.first, g.first, sums.part[0]);
        add(p.second, g.second, sums.part[1]);
        add(q.first, h.first, sums.part[2]);
        add(q.second, h.second, sums.part[3]);
      }
      for_vectors(n - i, sums, [&](index k, const auto& lanes, vf& sum) {
        add(lanes(y + i + k), lanes(dy + i + k), sum);
      });
      const vf mean = broadcast(sums.total());
      const auto gradient = [&](vf p, vf g) { return where_equal(p, 0.0f, zero, scale * p * (g - mean)); };
      i = 0;
      for (; i + 2 * vf_size <= n; i += 2 * vf_size) {
        const two_vectors p = load_two(y + i), g = load_two(dy + i);
        put_two(dx + i, {gradient(p.first, g.first), gradient(p.second, g.second)}, past_caches);
      }
      for_vectors(n - i, [&](index k, const auto& lanes) {
        lanes(dx + i + k, gradient(lanes(y + i + k), lanes(dy + i + k)), past_caches);
      });
    }
    if (a.streams) streaming_done();
  };
  with_rows(
      [&](auto y, auto dy, auto dx) {
        parallel_rows(a.exec, a.y.rows, a.y.cols,
                      [&](index first, index last) { block(y, dy, dx, first, last); });
      },
      a.y, a.dy, a.dx);
}

EINKORN_END_LEVEL
