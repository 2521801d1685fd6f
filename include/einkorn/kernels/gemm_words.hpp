/// Vectors of packed words for gemm_pack.hpp, and their transposition.
///
/// Everything is made of words of 32 bits that hold one k-group (1 f32, 2 bf16 or i16, 4 bytes), a vector of
/// them at a time, read in one of two ways: along k (`words_along_k`: neighbouring groups of one row or
/// column) or across (`words_across`: one group of neighbouring rows or columns, interleaved). Where the
/// wanted order is the other one, a square of words is transposed in registers.
#pragma once

#include "gemm_tile.hpp"

EINKORN_BEGIN_LEVEL

// ---- words_along_k: vf_size words from consecutive elements

template <class Element, class Source>
inline vf words_along_k(const Source* p) {
  if constexpr (std::is_same_v<Element, float>) {
    return load(p);
  } else if constexpr (sizeof(Element) == sizeof(Source)) {
    return load(reinterpret_cast<const float*>(p));
  } else {  // bytes to i16
#if EINKORN_LEVEL_AT_LEAST_AVX2 && !EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(std::is_signed_v<Source> ? _mm256_cvtepi8_epi16(bytes)
                                                        : _mm256_cvtepu8_epi16(bytes));
#elif !EINKORN_LEVEL_AT_LEAST_AVX2
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm_castsi128_ps(std::is_signed_v<Source> ? _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8)
                                                     : _mm_unpacklo_epi8(bytes, _mm_setzero_si128()));
#endif
  }
}

/// The same from the first `count` elements, zeros in place of the others. Reads nothing beyond them.
template <class Element, class Source>
inline vf words_along_k_first(const Source* p, index count) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  if constexpr (sizeof(Source) == 1)
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi8((__mmask64{1} << count) - 1, p));
  else if constexpr (sizeof(Element) == 2)
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((__mmask32{1} << count) - 1, p));
  else
    return load_first(p, count);
#else
  if constexpr (std::is_same_v<Element, float>) return load_first(p, count);
  Source staged[vf_size * 4 / sizeof(Element)] = {};
  __builtin_memcpy(staged, p, static_cast<std::size_t>(count) * sizeof(Source));
  return words_along_k<Element>(staged);
#endif
}

// ---- words_across: vf_size words, each from the same column of k_group rows

/// vf_size bytes or 16-bit elements, zero-extended (i16 of s8: sign-extended) to 32 bits.
template <class Element, class Source>
inline auto extend(const Source* p) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  if constexpr (sizeof(Source) == 2)
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  else
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return std::is_signed_v<Source> ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
#else
  int four;
  __builtin_memcpy(&four, p, 4);
  const __m128i bytes = _mm_cvtsi32_si128(four);
  if constexpr (std::is_signed_v<Source>) {
    const __m128i twice = _mm_unpacklo_epi8(bytes, bytes);
    return _mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24);
  } else {
    const __m128i words = _mm_unpacklo_epi8(bytes, _mm_setzero_si128());
    return _mm_unpacklo_epi16(words, _mm_setzero_si128());
  }
#endif
}

template <class Element, class Source>
inline vf words_across(const Source* p, index stride) {
  if constexpr (std::is_same_v<Element, float>) {
    return load(p);
  } else {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
    if constexpr (sizeof(Element) == 2) {
      const auto row = [&](const Source* from) {
        return _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
      };
      const __m512i turns = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39,
                                             7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
      return _mm512_castsi512_ps(_mm512_permutex2var_epi16(row(p), turns, row(p + stride)));
    } else {
      const auto x0 = extend<Element>(p), x1 = extend<Element>(p + stride);
      const auto x2 = extend<Element>(p + 2 * stride), x3 = extend<Element>(p + 3 * stride);
      const __m512i low = _mm512_or_si512(x0, _mm512_slli_epi32(x1, 8));
      const __m512i high = _mm512_or_si512(_mm512_slli_epi32(x2, 16), _mm512_slli_epi32(x3, 24));
      return _mm512_castsi512_ps(_mm512_or_si512(low, high));
    }
#elif EINKORN_LEVEL_AT_LEAST_AVX2
    const auto x0 = extend<Element>(p), x1 = extend<Element>(p + stride);
    const __m256i low = _mm256_and_si256(x0, _mm256_set1_epi32(0xffff));
    return _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_slli_epi32(x1, 16)));
#else
    const auto x0 = extend<Element>(p), x1 = extend<Element>(p + stride);
    const __m128i low = _mm_and_si128(x0, _mm_set1_epi32(0xffff));
    return _mm_castsi128_ps(_mm_or_si128(low, _mm_slli_epi32(x1, 16)));
#endif
  }
}

/// The same where only `rows` of the k_group rows and `width` of the vf_size columns exist; zeros elsewhere.
template <class Element, class Source>
inline vf words_across_first(const Source* p, index stride, index rows, index width) {
  constexpr int group = 4 / static_cast<int>(sizeof(Element));
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  const auto lanes = static_cast<__mmask16>((1u << width) - 1u);
  if constexpr (group == 1) {
    return width < vf_size ? load_first(p, width) : load(p);
  } else {
    __m512i words = _mm512_setzero_si512();
    for (index k = 0; k < rows; ++k) {
      __m512i row;
      if constexpr (sizeof(Source) == 2)
        row = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p + k * stride));
      else
        row = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, p + k * stride));
      words = _mm512_or_si512(
          words, _mm512_sll_epi32(
                     row, _mm_cvtsi32_si128(static_cast<int>(k) * 8 * static_cast<int>(sizeof(Source)))));
    }
    return _mm512_castsi512_ps(words);
  }
#else
  if constexpr (group == 1) return width < vf_size ? load_first(p, width) : load(p);
  Source staged[group][vf_size] = {};
  for (index k = 0; k < rows; ++k)
    __builtin_memcpy(staged[k], p + k * stride, static_cast<std::size_t>(width) * sizeof(Source));
  return words_across<Element>(&staged[0][0], vf_size);
#endif
}

// ---- vf_size x vf_size words, rows to columns, in registers

#if EINKORN_LEVEL_AT_LEAST_AVX2
/// 4 x 4 words in each 128 bits.
[[gnu::always_inline]] inline void transpose_quarters(vf r0, vf r1, vf r2, vf r3, vf* x) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  const __m512 a = _mm512_unpacklo_ps(r0, r1), b = _mm512_unpackhi_ps(r0, r1);
  const __m512 c = _mm512_unpacklo_ps(r2, r3), d = _mm512_unpackhi_ps(r2, r3);
  x[0] = _mm512_shuffle_ps(a, c, 0x44);
  x[1] = _mm512_shuffle_ps(a, c, 0xee);
  x[2] = _mm512_shuffle_ps(b, d, 0x44);
  x[3] = _mm512_shuffle_ps(b, d, 0xee);
#else
  const __m256 a = _mm256_unpacklo_ps(r0, r1), b = _mm256_unpackhi_ps(r0, r1);
  const __m256 c = _mm256_unpacklo_ps(r2, r3), d = _mm256_unpackhi_ps(r2, r3);
  x[0] = _mm256_shuffle_ps(a, c, 0x44);
  x[1] = _mm256_shuffle_ps(a, c, 0xee);
  x[2] = _mm256_shuffle_ps(b, d, 0x44);
  x[3] = _mm256_shuffle_ps(b, d, 0xee);
#endif
}
#endif

[[gnu::always_inline]] inline void transpose_words(vf (&x)[vf_size]) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  __m512 t[16], u[16];
  EINKORN_UNROLL
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  const auto low = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  EINKORN_UNROLL
  for (int i = 0; i < 16; i += 4) {  // u[i + c]: columns c, c+4, c+8, c+12 of rows i .. i+3
    u[i] = low(t[i], t[i + 2]);
    u[i + 1] = high(t[i], t[i + 2]);
    u[i + 2] = low(t[i + 1], t[i + 3]);
    u[i + 3] = high(t[i + 1], t[i + 3]);
  }
  EINKORN_UNROLL
  for (int c = 0; c < 4; ++c) {
    const __m512 a = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x44),
                 b = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xee);
    const __m512 d = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x44);
    const __m512 e = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xee);
    x[c] = _mm512_shuffle_f32x4(a, d, 0x88);
    x[c + 4] = _mm512_shuffle_f32x4(a, d, 0xdd);
    x[c + 8] = _mm512_shuffle_f32x4(b, e, 0x88);
    x[c + 12] = _mm512_shuffle_f32x4(b, e, 0xdd);
  }
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  vf halves[8];
  EINKORN_UNROLL
  for (int i = 0; i < 4; ++i) {
    halves[i] = _mm256_permute2f128_ps(x[i], x[4 + i], 0x20);
    halves[4 + i] = _mm256_permute2f128_ps(x[i], x[4 + i], 0x31);
  }
  transpose_quarters(halves[0], halves[1], halves[2], halves[3], &x[0]);
  transpose_quarters(halves[4], halves[5], halves[6], halves[7], &x[4]);
#else
  __m128 a = x[0], b = x[1], c = x[2], d = x[3];
  _MM_TRANSPOSE4_PS(a, b, c, d);
  x[0] = a;
  x[1] = b;
  x[2] = c;
  x[3] = d;
#endif
}

/// The same from memory, `stride` bytes between rows: quarters of rows are loaded into place, which leaves
/// 2 shuffles for each vector (of 4 on AVX-512, of 3 on AVX2).
[[gnu::always_inline]] inline void load_transposed(const char* p, index stride, vf (&x)[vf_size]) {
#if EINKORN_LEVEL_AT_LEAST_AVX2
  const auto quarter = [&](int row, int col) __attribute__((always_inline)) {
    return _mm_loadu_ps(reinterpret_cast<const float*>(p + row * stride) + col);
  };
  EINKORN_UNROLL
  for (int c = 0; c < vf_size; c += 4) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
    __m512 v[4];
    EINKORN_UNROLL
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm512_castps128_ps512(quarter(i, c));
      v[i] = _mm512_insertf32x4(v[i], quarter(i + 4, c), 1);
      v[i] = _mm512_insertf32x4(v[i], quarter(i + 8, c), 2);
      v[i] = _mm512_insertf32x4(v[i], quarter(i + 12, c), 3);
    }
#else
    __m256 v[4];
    EINKORN_UNROLL
    for (int i = 0; i < 4; ++i)
      v[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(quarter(i, c)), quarter(i + 4, c), 1);
#endif
    transpose_quarters(v[0], v[1], v[2], v[3], &x[c]);
  }
#else
  EINKORN_UNROLL
  for (int i = 0; i < vf_size; ++i) x[i] = load(reinterpret_cast<const float*>(p + i * stride));
  transpose_words(x);
#endif
}

EINKORN_END_LEVEL
