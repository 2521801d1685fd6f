/// What an epilogue begins with: sums as f32, those of an int8 product dequantised.
#pragma once

#include "../epilogue.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

inline vf gemm_sum(const dequantization&, const float* acc, index, index, index) { return load(acc); }

/// sums - zero * b, modulo 2^32, as f32. The arithmetic is the same on every level, and so are the bits.
inline vf integer_difference(const std::int32_t* sums, std::int32_t zero, const std::int32_t* b) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  const __m512i product = _mm512_mullo_epi32(_mm512_set1_epi32(zero), _mm512_loadu_si512(b));
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(sums), product));
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const auto at = [](const std::int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  };
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(at(sums), _mm256_mullo_epi32(_mm256_set1_epi32(zero), at(b))));
#else
  const auto at = [](const std::int32_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); };
  const __m128i x = _mm_set1_epi32(zero), y = at(b);
  const __m128i even = _mm_shuffle_epi32(_mm_mul_epu32(x, y), 0x08);  // the low halves of lanes 0 and 2
  const __m128i odd = _mm_shuffle_epi32(_mm_mul_epu32(x, _mm_srli_epi64(y, 32)), 0x08);
  return _mm_cvtepi32_ps(_mm_sub_epi32(at(sums), _mm_unpacklo_epi32(even, odd)));
#endif
}

inline vf integer_value(const std::int32_t* sums) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_cvtepi32_ps(_mm512_loadu_si512(sums));
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums)));
#else
  return _mm_cvtepi32_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(sums)));
#endif
}

/// A vector of sums of row `row` from column `col` on, of which `count` are in the matrix.
inline vf gemm_sum(const dequantization& d, const std::int32_t* acc, index row, index col, index count) {
  vf value;
  if (d.row_zero == nullptr) {
    value = integer_value(acc);
  } else if (count >= vf_size) {
    value = integer_difference(acc, d.row_zero[row], d.col_sum + col);
  } else {
    std::int32_t col_sums[vf_size] = {};
    for (index i = 0; i < count; ++i) col_sums[i] = d.col_sum[col + i];
    value = integer_difference(acc, d.row_zero[row], col_sums);
  }
  // One scale after the other: their product alone could leave the range of f32.
  if (d.col_scale != nullptr)
    value *= count >= vf_size ? load(d.col_scale + col) : load_first(d.col_scale + col, count);
  return d.row_scale != nullptr ? value * broadcast(d.row_scale[row]) : value;
}

EINKORN_END_LEVEL
