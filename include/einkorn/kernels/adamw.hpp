/// AdamW and the norm of gradients over the tensors taken one after another, in blocks of equal size.
///
/// AdamW moves 28 bytes an element (30 with a narrow copy); the square root and the division of a vector
/// take less time than that on every machine tried, so neither is replaced by an estimate.
#pragma once

#include "../adamw.hpp"
#include "../detail/level.hpp"
#include "parallel.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

/// body(tensor, first, count) for the parts of the tensors that make up elements [begin, end) of them all.
template <class Size, class Body>
inline void for_each_part(index tensors, const Size& size, index begin, index end, const Body& body) {
  index start = 0;
  for (index i = 0; i < tensors && start < end; ++i) {
    const index n = size(i);
    const index from = begin > start ? begin - start : 0;
    const index to = end - start < n ? end - start : n;
    if (from < to) body(i, from, to - from);
    start += n;
  }
}

struct adamw_constants {
  vf beta1, beta2, rest1, rest2, eps, decay, step, inverse_sqrt_bc2, grad_scale;
};

/// Updates m and v in place and returns the new parameters.
inline vf adamw_update(const adamw_constants& k, vf p, vf g, vf& m, vf& v) {
  g = g * k.grad_scale;
  m = fma(k.beta1, m, k.rest1 * g);
  v = fma(k.beta2, v, k.rest2 * g * g);
  const vf denominator = fma(sqrt(v), k.inverse_sqrt_bc2, k.eps);
  return p * k.decay - k.step * m / denominator;
}

template <class Narrow>
inline void adamw_part(const adamw_constants& k, const adamw_tensor& tensor, index first, index count,
                       bool zero_grad) {
  float* const p = tensor.param + first;
  float* const g = tensor.grad + first;
  float* const m = tensor.m + first;
  float* const v = tensor.v + first;
  Narrow* const narrow = static_cast<Narrow*>(tensor.narrow);
  index i = 0;
  for (; i + vf_size <= count; i += vf_size) {
    vf new_m = load(m + i), new_v = load(v + i);
    const vf new_p = adamw_update(k, load(p + i), load(g + i), new_m, new_v);
    store(p + i, new_p);
    store(m + i, new_m);
    store(v + i, new_v);
    if (narrow != nullptr) store(narrow + first + i, new_p);
    if (zero_grad) store(g + i, broadcast(0.0f));
  }
  if (i < count) {
    const index rest = count - i;
    vf new_m = load_first(m + i, rest), new_v = load_first(v + i, rest);
    const vf new_p = adamw_update(k, load_first(p + i, rest), load_first(g + i, rest), new_m, new_v);
    store_first(p + i, new_p, rest);
    store_first(m + i, new_m, rest);
    store_first(v + i, new_v, rest);
    if (narrow != nullptr) store_first(narrow + first + i, new_p, rest);
    if (zero_grad) store_first(g + i, broadcast(0.0f), rest);
  }
}

inline void adamw(const detail::adamw_args& args) {
  constexpr index block = detail::adamw_block;
  parallel_for(args.exec, (args.elements + block - 1) / block, [&](index task) {
    adamw_constants k{broadcast(args.beta1),     broadcast(args.beta2),
                      broadcast(args.rest1),     broadcast(args.rest2),
                      broadcast(args.eps),       broadcast(1.0f),
                      broadcast(args.step),      broadcast(args.inverse_sqrt_bc2),
                      broadcast(args.grad_scale)};
    for_each_part(
        args.count, [&](index i) { return args.tensors[i].n; }, task * block, (task + 1) * block,
        [&](index i, index first, index count) {
          const adamw_tensor& tensor = args.tensors[i];
          k.decay = broadcast(tensor.decay ? args.decay : 1.0f);
          if (tensor.narrow != nullptr && tensor.narrow_type == dtype::fp16)
            adamw_part<fp16>(k, tensor, first, count, args.zero_grad);
          else
            adamw_part<bf16>(k, tensor, first, count, args.zero_grad);
        });
  });
}

/// The sum of squares of f32 lanes, widened to f64 before they are squared.
struct square_sum {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  __m512d lower = _mm512_setzero_pd(), upper = _mm512_setzero_pd();
  void add(vf x) {
    const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    lower = _mm512_fmadd_pd(a, a, lower);
    upper = _mm512_fmadd_pd(b, b, upper);
  }
  double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(lower, upper)); }
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  __m256d lower = _mm256_setzero_pd(), upper = _mm256_setzero_pd();
  void add(vf x) {
    const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
    const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
    lower = _mm256_fmadd_pd(a, a, lower);
    upper = _mm256_fmadd_pd(b, b, upper);
  }
  double total() const {
    double lanes[4];
    _mm256_storeu_pd(lanes, _mm256_add_pd(lower, upper));
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
  }
#else
  __m128d lower = _mm_setzero_pd(), upper = _mm_setzero_pd();
  void add(vf x) {
    const __m128d a = _mm_cvtps_pd(x);
    const __m128d b = _mm_cvtps_pd(_mm_movehl_ps(x, x));
    lower = _mm_add_pd(lower, _mm_mul_pd(a, a));
    upper = _mm_add_pd(upper, _mm_mul_pd(b, b));
  }
  double total() const {
    double lanes[2];
    _mm_storeu_pd(lanes, _mm_add_pd(lower, upper));
    return lanes[0] + lanes[1];
  }
#endif
};

inline void gradient_norm(const detail::gradient_norm_args& args) {
  constexpr index block = detail::gradient_norm_block;
  const index blocks = (args.elements + block - 1) / block;
  parallel_for(args.exec, blocks, [&](index task) {
    square_sum even, odd;  // two, so that no addition waits for the one before
    for_each_part(
        args.count, [&](index i) { return static_cast<index>(args.tensors[i].size()); }, task * block,
        (task + 1) * block,
        [&](index i, index first, index count) {
          const float* const x = args.tensors[i].data() + first;
          index k = 0;
          for (; k + 2 * vf_size <= count; k += 2 * vf_size) {
            even.add(load(x + k));
            odd.add(load(x + k + vf_size));
          }
          for (; k + vf_size <= count; k += vf_size) even.add(load(x + k));
          if (k < count) odd.add(load_first(x + k, count - k));
        });
    args.partial[task] = even.total() + odd.total();
  });
  // Pairs of neighbours, then pairs of those: the order depends on the number of blocks only.
  for (index gap = 1; gap < blocks; gap *= 2)
    for (index i = 0; i + gap < blocks; i += 2 * gap) args.partial[i] += args.partial[i + gap];
  *args.sum = blocks > 0 ? args.partial[0] : 0.0;
}

EINKORN_END_LEVEL
