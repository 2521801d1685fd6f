/// Softmax and its gradient, row by row: a row is read from memory once and stays in L1 for the next passes.
#pragma once

#include "../detail/softmax_args.hpp"
#include "math.hpp"
#include "rows.hpp"

EINKORN_BEGIN_LEVEL

namespace softmax_rows {

/// Rows up to this length keep exp(v - max) in a buffer of 16 KiB when y is narrower than f32; longer ones
/// compute it twice.
inline constexpr index buffered_cols = 4096;

inline vf exponential(vf x) { return exp(x); }

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

/// scale * x + mask; where the mask is -infinity x does not count, whatever it is.
template <class X>
struct unmasked_row {
  const X* x;
  vf scale;
  template <class Load>
  vf operator()(index i, const Load& load_lanes) const {
    return load_lanes(x + i) * scale;
  }
};
template <class X>
struct masked_row {
  const X* x;
  const float* mask;
  vf scale;
  template <class Load>
  vf operator()(index i, const Load& load_lanes) const {
    const vf m = load_lanes(mask + i);
    return where_equal(m, -INFINITY, broadcast(-INFINITY), fma(load_lanes(x + i), scale, m));
  }
};

/// max that keeps a NaN of neither operand out for good is not needed: a NaN makes the sum of exp NaN.
template <class Row>
inline float row_max(const Row& row, index n) {
  vf part[4];
  for (vf& p : part) p = broadcast(-INFINITY);
  index i = 0;
  for (; i + 4 * vf_size <= n; i += 4 * vf_size) {
    part[0] = max(part[0], row(i, whole_vector{}));
    part[1] = max(part[1], row(i + vf_size, whole_vector{}));
    part[2] = max(part[2], row(i + 2 * vf_size, whole_vector{}));
    part[3] = max(part[3], row(i + 3 * vf_size, whole_vector{}));
  }
  for (; i + vf_size <= n; i += vf_size) part[0] = max(part[0], row(i, whole_vector{}));
  if (i < n) {
    float lanes[vf_size];
    store(lanes, row(i, part_of_vector{n - i}));
    store(lanes, max(part[1], load_first(lanes, n - i, -INFINITY)));
    part[1] = load(lanes);
  }
  return reduce_max(max(max(part[0], part[1]), max(part[2], part[3])));
}

/// y[0, n) = softmax; returns the log-sum-exp.
template <class Row, class Y>
inline float softmax_row(const Row& row, Y* y, index n) {
  const float found = row_max(row, n);
  // With nothing left the maximum is -infinity; 0 in its place makes every exp 0, or NaN where a NaN is.
  const float maximum = found == -INFINITY ? 0.0f : found;
  const vf shift = broadcast(maximum);
  float buffer[buffered_cols];
  float* exps = buffer;
  if constexpr (std::is_same_v<Y, float>) exps = y;
  const bool stored = std::is_same_v<Y, float> || n <= buffered_cols;
  four_sums sums;
  for_vectors(
      n, sums,
      [&](index i, vf& sum) {
        const vf e = exponential(row(i, whole_vector{}) - shift);
        if (stored) store(exps + i, e);
        sum += e;
      },
      [&](index i, index count, vf& sum) {
        const vf e = exponential(row(i, part_of_vector{count}) - shift);
        float lanes[vf_size];
        store(lanes, e);
        if (stored) store_first(exps + i, e, count);
        sum += load_first(lanes, count);
      });
  const float total = sums.total();
  const vf factor = broadcast(total == 0 ? 0.0f : 1 / total);
  if (stored) {
    for_vectors(n, [&](index i, const auto& lanes) { lanes(y + i, lanes(exps + i) * factor); });
  } else {
    for_vectors(
        n, [&](index i, const auto& lanes) { lanes(y + i, exponential(row(i, lanes) - shift) * factor); });
  }
  return total == 0 ? -INFINITY : maximum + __builtin_logf(total);
}

template <class Y>
inline void fill_zero(Y* y, index first, index last) {
  for (index i = first; i < last; ++i) y[i] = Y{};
}

template <class X, class Y>
inline void softmax_block(const detail::softmax_args& a, index first, index last) {
  const vf scale = broadcast(a.scale);
  for (index r = first; r < last; ++r) {
    const X* x = row_of<const X>(a.x, r);
    Y* y = row_of<Y>(a.y, r);
    const index n = a.lengths != nullptr ? a.lengths[r] : a.x.cols;
    float lse;
    if (a.mask) {
      const float* mask = row_of<const float>(a.mask, a.mask.rows == 1 ? 0 : r);
      lse = softmax_row(masked_row<X>{x, mask, scale}, y, n);
    } else {
      lse = softmax_row(unmasked_row<X>{x, scale}, y, n);
    }
    fill_zero(y, n, a.x.cols);
    if (a.lse != nullptr) a.lse[r] = lse;
  }
}

template <class Y, class G, class D>
inline void softmax_backward_block(const detail::softmax_backward_args& a, index first, index last) {
  const vf zero = broadcast(0.0f), scale = broadcast(a.scale);
  const index n = a.y.cols;
  for (index r = first; r < last; ++r) {
    const Y* y = row_of<const Y>(a.y, r);
    const G* dy = row_of<const G>(a.dy, r);
    D* dx = row_of<D>(a.dx, r);
    four_sums sums;
    const auto add = [&](vf p, vf g, vf& sum) { sum += where_equal(p, 0.0f, zero, p * g); };
    for_vectors(
        n, sums, [&](index i, vf& sum) { add(load(y + i), load(dy + i), sum); },
        [&](index i, index count, vf& sum) {
          add(load_first(y + i, count), load_first(dy + i, count), sum);
        });
    const vf mean = broadcast(sums.total());
    for_vectors(n, [&](index i, const auto& lanes) {
      const vf p = lanes(y + i);
      lanes(dx + i, where_equal(p, 0.0f, zero, scale * p * (lanes(dy + i) - mean)));
    });
  }
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
