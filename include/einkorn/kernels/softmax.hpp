/// Softmax and its gradient, row by row: a row is read from memory once and stays in L1 for the next passes.
#pragma once

#include "../detail/softmax_args.hpp"
#include "math.hpp"
#include "rows.hpp"

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

/// v = scale * x, and v - maximum for the exponential.
template <class X>
struct unmasked_row {
  const X* x;
  vf scale;
  template <class Lanes>
  vf value(index i, const Lanes& lanes) const {
    return lanes(x + i) * scale;
  }
  template <class Lanes>
  vf below(vf maximum, index i, const Lanes& lanes) const {
    return math::product_minus(lanes(x + i), scale, maximum);
  }
};
/// scale * x + mask; where the mask is -infinity x does not count, whatever it is.
template <class X>
struct masked_row {
  const X* x;
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
};

/// max that keeps a NaN of neither operand out for good is not needed: a NaN makes the sum of exp NaN.
template <class Row>
inline float row_max(const Row& row, index n) {
  vf part[4];
  for (vf& p : part) p = broadcast(-INFINITY);
  index i = 0;
  for (; i + 4 * vf_size <= n; i += 4 * vf_size) {
    part[0] = max(part[0], row.value(i, whole_vector{}));
    part[1] = max(part[1], row.value(i + vf_size, whole_vector{}));
    part[2] = max(part[2], row.value(i + 2 * vf_size, whole_vector{}));
    part[3] = max(part[3], row.value(i + 3 * vf_size, whole_vector{}));
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
inline void softmax_row(const Row& row, Y* y, index n, float* lse, bool past_caches) {
  const float found = row_max(row, n);
  // With nothing left the maximum is -infinity; 0 in its place makes every exp 0, or NaN where a NaN is.
  const float maximum = found == -INFINITY ? 0.0f : found;
  const vf shift = broadcast(maximum), log2_e = broadcast(math::log2_e);
  alignas(64) float exps[buffered_cols];
  const bool stored = n <= buffered_cols;
  four_sums sums;
  for_vectors(
      n, sums,
      [&](index i, vf& sum) {
        const vf e = exp2(row.below(shift, i, whole_vector{}) * log2_e);
        if (stored) store(exps + i, e);
        sum += e;
      },
      [&](index i, index count, vf& sum) {
        const vf e = exp2(row.below(shift, i, part_of_vector{count}) * log2_e);
        float lanes[vf_size];
        store(lanes, e);
        if (stored) store_first(exps + i, e, count);
        sum += load_first(lanes, count);
      });
  const float total = sums.total();
  const vf factor = broadcast(total == 0 ? 0.0f : 1 / total);
  if (stored) {
    for_vectors(n, [&](index i, const auto& lanes) { lanes(y + i, lanes(exps + i) * factor, past_caches); });
  } else {
    for_vectors(n, [&](index i, const auto& lanes) {
      lanes(y + i, exp2(row.below(shift, i, lanes) * log2_e) * factor, past_caches);
    });
  }
  if (lse != nullptr) *lse = total == 0 ? -INFINITY : maximum + first_lane(log(broadcast(total)));
}

template <class Y>
inline void fill_zero(Y* y, index first, index last) {
  for (index i = first; i < last; ++i) y[i] = Y{};
}

template <class X, class Y>
inline void softmax_block(const detail::softmax_args& a, index first, index last) {
  for (index r = first; r < last; ++r) {
    const X* x = row_of<const X>(a.x, r);
    Y* y = row_of<Y>(a.y, r);
    const index n = a.lengths != nullptr ? a.lengths[r] : a.x.cols;
    const bool past_caches = a.streams && can_stream(y);
    float* lse = a.lse != nullptr ? a.lse + r : nullptr;
    if (a.mask) {
      const float* mask = row_of<const float>(a.mask, a.mask.rows == 1 ? 0 : r);
      softmax_row(masked_row<X>{x, mask, broadcast(a.scale)}, y, n, lse, past_caches);
    } else {
      softmax_row(unmasked_row<X>{x, broadcast(a.scale)}, y, n, lse, past_caches);
    }
    fill_zero(y, n, a.x.cols);
  }
  if (a.streams) streaming_done();
}

template <class Y, class G, class D>
inline void softmax_backward_block(const detail::softmax_backward_args& a, index first, index last) {
  const vf zero = broadcast(0.0f), scale = broadcast(a.scale);
  const index n = a.y.cols;
  for (index r = first; r < last; ++r) {
    const Y* y = row_of<const Y>(a.y, r);
    const G* dy = row_of<const G>(a.dy, r);
    D* dx = row_of<D>(a.dx, r);
    const bool past_caches = a.streams && can_stream(dx);
    four_sums sums;
    const auto add = [&](vf p, vf g, vf& sum) { sum += where_equal(p, 0.0f, zero, p * g); };
    index i = 0;
    if constexpr (std::is_same_v<Y, G>) {
      for (; i + 4 * vf_size <= n; i += 4 * vf_size) {
        const two_vectors p = load_two(y + i), g = load_two(dy + i);
        const two_vectors q = load_two(y + i + 2 * vf_size), h = load_two(dy + i + 2 * vf_size);
        add(p.first, g.first, sums.part[0]);
        add(p.second, g.second, sums.part[1]);
        add(q.first, h.first, sums.part[2]);
        add(q.second, h.second, sums.part[3]);
      }
    }
    for_vectors(
        n - i, sums, [&](index k, vf& sum) { add(load(y + i + k), load(dy + i + k), sum); },
        [&](index k, index count, vf& sum) {
          add(load_first(y + i + k, count), load_first(dy + i + k, count), sum);
        });
    const vf mean = broadcast(sums.total());
    const auto gradient = [&](vf p, vf g) { return where_equal(p, 0.0f, zero, scale * p * (g - mean)); };
    i = 0;
    if constexpr (std::is_same_v<Y, G> && std::is_same_v<Y, D>) {
      for (; i + 2 * vf_size <= n; i += 2 * vf_size) {
        const two_vectors p = load_two(y + i), g = load_two(dy + i);
        put_two(dx + i, {gradient(p.first, g.first), gradient(p.second, g.second)}, past_caches);
      }
    }
    for_vectors(n - i, [&](index k, const auto& lanes) {
      lanes(dx + i + k, gradient(lanes(y + i + k), lanes(dy + i + k)), past_caches);
    });
  }
  if (a.streams) streaming_done();
}

}  // namespace softmax_rows

inline void softmax(const detail::softmax_args& a) {
  const auto block = with_real(a.x.type, [&](auto x) {
    return with_real(a.y.type, [](auto y) { return &softmax_rows::softmax_block<decltype(x), decltype(y)>; });
  });
  parallel_rows(a.exec, a.x.rows, a.x.cols, [&](index first, index last) { block(a, first, last); });
}

inline void softmax_backward(const detail::softmax_backward_args& a) {
  const auto block = with_real(a.y.type, [&](auto y) {
    return with_real(a.dy.type, [&](auto dy) {
      return with_real(a.dx.type, [](auto dx) {
        return &softmax_rows::softmax_backward_block<decltype(y), decltype(dy), decltype(dx)>;
      });
    });
  });
  parallel_rows(a.exec, a.y.rows, a.y.cols, [&](index first, index last) { block(a, first, last); });
}

EINKORN_END_LEVEL
