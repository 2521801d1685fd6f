/// Two vectors at a time where the order of the elements does not matter: sums, and element-wise functions.
#pragma once

#include "streaming.hpp"

EINKORN_BEGIN_LEVEL

/// The elements [p, p + 2 * vf_size), in the type's own order: of bf16 one register holds the even elements,
/// the other the odd ones, for one instruction each where widening in order takes two.
struct two_vectors {
  vf first, second;
};
inline two_vectors load_two(const float* p) { return {load(p), load(p + vf_size)}; }
inline two_vectors load_two(const fp16* p) { return {load(p), load(p + vf_size)}; }
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
inline two_vectors load_two(const bf16* p) {
  const __m512i both = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
#elif EINKORN_LEVEL_AT_LEAST_AVX2
inline two_vectors load_two(const bf16* p) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
}
#else
inline two_vectors load_two(const bf16* p) {
  const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm_castsi128_ps(_mm_slli_epi32(both, 16)),
          _mm_castsi128_ps(_mm_and_si128(both, _mm_set1_epi32(static_cast<int>(0xffff0000u))))};
}
#endif

/// The way back: what load_two took from p goes to p. Past the caches p is a multiple of 64 bytes.
inline void put_two(float* p, two_vectors v, bool past_caches) {
  put(p, v.first, past_caches);
  put(p + vf_size, v.second, past_caches);
}
inline void put_two(fp16* p, two_vectors v, bool past_caches) {
  put(p, v.first, past_caches);
  put(p + vf_size, v.second, past_caches);
}
inline void put_two(bf16* p, two_vectors v, bool past_caches) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16
  // Even elements, then odd ones: shuffled into their order.
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both =
      _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(v.second, v.first)));
#elif EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  const __m512i both = _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(round_to_bf16(v.first), 16),
                                               round_to_bf16(v.second));
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const __m256i both =
      _mm256_blend_epi16(_mm256_srli_epi32(round_to_bf16(v.first), 16), round_to_bf16(v.second), 0xaa);
#else
  const __m128i upper = _mm_set1_epi32(static_cast<int>(0xffff0000u));
  const __m128i both =
      _mm_or_si128(_mm_srli_epi32(round_to_bf16(v.first), 16), _mm_and_si128(round_to_bf16(v.second), upper));
#endif
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  if (past_caches) return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), both);
  _mm512_storeu_si512(p, both);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  if (past_caches) return _mm256_stream_si256(reinterpret_cast<__m256i*>(p), both);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), both);
#else
  if (past_caches) return _mm_stream_si128(reinterpret_cast<__m128i*>(p), both);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), both);
#endif
}

EINKORN_END_LEVEL
