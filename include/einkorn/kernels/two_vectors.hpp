/// Loads and stores of two vectors, also where the order of the elements does not matter: for sums and
/// element-wise functions.
#pragma once

#include <type_traits>

#include "streaming.hpp"

EINKORN_BEGIN_LEVEL

/// The elements [p, p + 2 * vf_size), in the type's own order: of bf16 one register holds the even elements,
/// the other the odd ones, for one instruction each where widening in order takes two.
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

// Two vectors as 2 * vf_size bf16: `in_order` the elements of `first`, then those of `second`; `in_turn` one
// of each in turn, which is load_two's order.
#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16
using narrow_pair = __m512i;
inline narrow_pair narrow_in_order(two_vectors v) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(v.second, v.first));
}
inline narrow_pair narrow_in_turn(two_vectors v) {
  const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(turns, narrow_in_order(v));
}
#elif EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
using narrow_pair = __m512i;
inline narrow_pair narrow_in_order(two_vectors v) {
  const __m512i upper_halves =
      _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21,
                       19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return _mm512_permutex2var_epi16(round_to_bf16(v.first), upper_halves, round_to_bf16(v.second));
}
inline narrow_pair narrow_in_turn(two_vectors v) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(round_to_bf16(v.first), 16),
                                 round_to_bf16(v.second));
}
#elif EINKORN_LEVEL_AT_LEAST_AVX2
using narrow_pair = __m256i;
/// 18 instructions, where rounding each vector by itself and blending takes 24: 16 lanes at once.
inline narrow_pair narrow_in_turn(two_vectors v) {
  const __m256i first = _mm256_castps_si256(v.first), second = _mm256_castps_si256(v.second);
  const __m256i upper = _mm256_blend_epi16(_mm256_srli_epi32(first, 16), second, 0xaa);
  const __m256i lower = _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
  // One more where `lower` is above a half, or a half beside an odd `upper`.
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi16(1));
  const __m256i above = _mm256_xor_si256(_mm256_adds_epu16(lower, odd), _mm256_set1_epi16(-0x8000));
  __m256i rounded = _mm256_sub_epi16(upper, _mm256_cmpgt_epi16(above, _mm256_setzero_si256()));
  const __m256i exponent = _mm256_and_si256(upper, _mm256_set1_epi16(0x7f80));
  const __m256i tiny = _mm256_cmpeq_epi16(exponent, _mm256_setzero_si256());
  rounded = _mm256_andnot_si256(_mm256_and_si256(tiny, _mm256_set1_epi16(0x7fff)), rounded);
  const __m256 first_nan = _mm256_cmp_ps(v.first, v.first, _CMP_UNORD_Q);
  const __m256 second_nan = _mm256_cmp_ps(v.second, v.second, _CMP_UNORD_Q);
  const __m256i nan =
      _mm256_blend_epi16(_mm256_castps_si256(first_nan), _mm256_castps_si256(second_nan), 0xaa);
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi16(0x40)), nan);
}
inline narrow_pair narrow_in_order(two_vectors v) {
  const __m256i halves = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8,
                                          9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(narrow_in_turn(v), halves), 0xd8);
}
#else
using narrow_pair = __m128i;
inline narrow_pair narrow_in_order(two_vectors v) {
  return _mm_packs_epi32(_mm_srai_epi32(round_to_bf16(v.first), 16),
                         _mm_srai_epi32(round_to_bf16(v.second), 16));
}
inline narrow_pair narrow_in_turn(two_vectors v) {
  const __m128i upper = _mm_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm_or_si128(_mm_srli_epi32(round_to_bf16(v.first), 16),
                      _mm_and_si128(round_to_bf16(v.second), upper));
}
#endif
inline void put_pair(bf16* p, narrow_pair both, bool past_caches) {
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

/// 2 * vf_size elements in the order of the lanes. Past the caches p is a multiple of 64 bytes.
template <class P>
inline void put_in_order(P p, two_vectors v, bool past_caches) {
  if constexpr (std::is_same_v<P, bf16*>) {
    put_pair(p, narrow_in_order(v), past_caches);
  } else {
    put(p, v.first, past_caches);
    put(p + vf_size, v.second, past_caches);
  }
}
/// The way back: what load_two took from p goes to p. Past the caches p is a multiple of 64 bytes.
template <class P>
inline void put_two(P p, two_vectors v, bool past_caches) {
  if constexpr (std::is_same_v<P, bf16*>) {
    put_pair(p, narrow_in_turn(v), past_caches);
  } else {
    put_in_order(p, v, past_caches);
  }
}

/// What load_two separated, in the order of memory. For what is done once, not for each row.
template <class Row>
inline constexpr bool separates = std::is_same_v<Row, bf16*> || std::is_same_v<Row, const bf16*>;
inline two_vectors interleave(two_vectors v) {
  float even[vf_size], odd[vf_size], both[2 * vf_size];
  store(even, v.first);
  store(odd, v.second);
  for (int i = 0; i < vf_size; ++i) {
    both[2 * i] = even[i];
    both[2 * i + 1] = odd[i];
  }
  return {load(both), load(both + vf_size)};
}

EINKORN_END_LEVEL
