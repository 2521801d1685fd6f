/// From scores to probabilities, forward, and to their gradients, backward: the part of attention that is not
/// a product. Per vector 12 instructions of power_of_two, 8 of them on the ports that the products want too.
#pragma once

#include "attention_operands.hpp"

EINKORN_BEGIN_LEVEL

inline constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

/// What is known of the softmax of up to Rows rows after some of their keys: all in powers of two.
template <int Rows>
struct softmax_state {
  static constexpr int lanes = (Rows + vf_size - 1) / vf_size * vf_size;
  float top[lanes];      // largest factor * score so far
  float sum[lanes];      // of 2^(factor * score - top)
  float rescale[lanes];  // what older sums are to be multiplied with
  softmax_state() {
    for (int r = 0; r < lanes; ++r) {
      top[r] = -__builtin_inff();
      sum[r] = 0;
    }
  }
};

/// The largest of `count` numbers, count a multiple of vf_size.
inline float largest_of(const float* x, index count) {
  vf most[4] = {load(x), load(x), load(x), load(x)};
  index j = 0;
  for (; j + 4 * vf_size <= count; j += 4 * vf_size)
    for (int u = 0; u < 4; ++u) most[u] = max(most[u], load(x + j + u * vf_size));
  for (; j < count; j += vf_size) most[0] = max(most[0], load(x + j));
  return reduce_max(max(max(most[0], most[1]), max(most[2], most[3])));
}

/// p = 2^(factor * scores - top) where kept, else 0, as E. Returns the sum, of the dropped ones too. count is
/// a multiple of vf_size.
template <bool Drop, class E>
inline float exponentials(const float* scores, E* p, const std::uint8_t* keep, index count, float factor,
                          float top) {
  const vf f = broadcast(factor), shift = broadcast(-top);
  two_vectors sum = broadcast(0.0f);
  const auto put_kept = [&](index j, vf e) { store(p + j, Drop ? keep_factors(keep, 0, j, e) : e); };
  index j = 0;
  for (; j + 2 * vf_size <= count; j += 2 * vf_size) {
    const two_vectors e = power_of_two(fma(load_two(scores + j), f, shift));
    sum = sum + e;
    put_kept(j, e.first);
    put_kept(j + vf_size, e.second);
  }
  if (j < count) {
    const vf e = power_of_two(fma(load(scores + j), f, shift));
    sum.first += e;
    put_kept(j, e);
  }
  return reduce_add(sum.first + sum.second);
}

#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16
/// a and b as two rows of E, and as words with a in their lower and b in their upper halves.
template <class E>
inline void store_rows_and_words(E* row_a, E* row_b, char* words, vf a, vf b) {
  __m512i both;
  if constexpr (std::is_same_v<E, bf16>)
    both = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
  else
    both = _mm512_inserti64x4(_mm512_castsi256_si512(narrow_fp16(a)), narrow_fp16(b), 1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(row_a), _mm512_castsi512_si256(both));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(row_b), _mm512_extracti64x4_epi64(both, 1));
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                              23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(words, _mm512_permutexvar_epi16(interleave, both));
}
#endif

/// What one tile of transposed scores, keys x queries, needs for its gradients.
template <class E>
struct gradient_tile {
  index rows, cols;           // keys; queries, a multiple of vf_size
  const float *scores, *dp;   // rows are nr apart
  const std::uint8_t* keep;   // bits of the queries, one row a key; null: all are kept
  index keep_stride;          // bytes
  float factor, keep_scale;   // scores to powers of two
  const float *shift, *mean;  // of each query: log2 of the sum of its exponentials, rowsum(dout * out)
  E *p, *ds;                  // rows of the products for dv and dk
  index stride;               // bytes from row to row of p and ds
  char* panel;                // ds as the B of the product for dq
};

/// p = 2^(factor * scores - shift) where kept; ds = p * (dp * keep - mean).
template <class Kernel, bool Drop, class E>
inline void score_gradients(const gradient_tile<E> t) {  // a copy: what is stored cannot change it
  constexpr index nr = Kernel::nr, group = Kernel::k_group;
  const vf factor = broadcast(t.factor), keep_scale = broadcast(t.keep_scale);
  const index stride = t.stride / static_cast<index>(sizeof(E));
  for (index col = 0; col < t.cols; col += vf_size) {
    const vf shift = load(t.shift + col), mean = load(t.mean + col);
    const float *scores = t.scores + col, *dp = t.dp + col;
    const std::uint8_t* keep = t.keep;
    E *p = t.p + col, *ds = t.ds + col;
    char* words = t.panel + col * 4;
    // The gradient of the next row; its probability where kept to `kept`.
    const auto next = [&](vf& kept) {
      const vf whole = power_of_two(fma(load(scores), factor, shift));
      vf gradient = load(dp);
      kept = whole;
      if constexpr (Drop) {
        gradient *= keep_factors(keep, 0, col, keep_scale);
        kept = keep_factors(keep, 0, col, whole);
        keep += t.keep_stride;
      }
      scores += nr;
      dp += nr;
      return whole * (gradient - mean);
    };
    vf kept;
    if constexpr (group == 1) {
      for (index row = 0; row < t.rows; ++row, p += stride, ds += stride, words += nr * 4) {
        const vf gradient = next(kept);
        store(p, kept);
        store(ds, gradient);
        store(reinterpret_cast<float*>(words), gradient);
      }
    } else {
#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16
      index row = 0;
      for (; row + 2 <= t.rows; row += 2, p += 2 * stride, ds += 2 * stride, words += nr * 4) {
        vf next_kept;
        const vf gradient = next(kept), next_gradient = next(next_kept);
        store(p, kept);
        store(p + stride, next_kept);
        store_rows_and_words(ds, ds + stride, words, gradient, next_gradient);
      }
      if (row < t.rows) {  // there is room for one row more
        const vf gradient = next(kept);
        store(p, kept);
        store_rows_and_words(ds, ds + stride, words, gradient, broadcast(0.0f));
      }
#endif
    }
  }
}

/// log-sum-exp and the factors 1 / sum of the rows that `s` describes.
template <int Rows>
inline void finish_softmax(softmax_state<Rows>& s, float keep_scale, float* lse, index rows) {
  float result[softmax_state<Rows>::lanes];
  for (int r = 0; r < Rows; r += vf_size) {
    const vf sum = load(s.sum + r);
    store(result + r, fma(load(s.top + r), broadcast(ln_2), log(sum)));
    // No key has a finite score: every probability is 0.
    store(s.rescale + r, math::select_less(broadcast(0.0f), sum, broadcast(keep_scale) / sum, sum));
  }
  __builtin_memcpy(lse, result, static_cast<std::size_t>(rows) * sizeof(float));
}

EINKORN_END_LEVEL
