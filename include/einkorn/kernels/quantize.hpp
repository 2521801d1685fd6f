/// Rows to bytes: one pass for the range, which leaves the row in L1, and one that rounds.
#pragma once

#include <type_traits>

#include "../detail/quantize_args.hpp"
#include "rows.hpp"

EINKORN_BEGIN_LEVEL

/// Each lane rounded to nearest even, `zero` added, saturated to 0..255 or -128..127.
inline void store_bytes(std::uint8_t* p, vf value, std::int32_t zero) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(value), _mm512_set1_epi32(zero));
  const __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(q, _mm512_setzero_si512()));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(value), _mm256_set1_epi32(zero));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
#else
  const __m128i q = _mm_add_epi32(_mm_cvtps_epi32(value), _mm_set1_epi32(zero));
  const __m128i words = _mm_packs_epi32(q, q);
  const int four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  __builtin_memcpy(p, &four, 4);
#endif
}
inline void store_bytes(std::int8_t* p, vf value, std::int32_t) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(value)));
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const __m256i q = _mm256_cvtps_epi32(value);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
#else
  const __m128i q = _mm_cvtps_epi32(value);
  const __m128i words = _mm_packs_epi32(q, q);
  const int four = _mm_cvtsi128_si32(_mm_packs_epi16(words, words));
  __builtin_memcpy(p, &four, 4);
#endif
}

/// What x is multiplied by, what q is multiplied by, and the byte that stands for 0.
struct byte_scale {
  float to_byte = 0, to_value = 0;
  std::int32_t zero = 0;

  /// lo <= 0 <= hi. In double, so that hi - lo cannot overflow; a range below 2^-100 counts as zeros.
  template <class Byte>
  static byte_scale of(float lo, float hi) {
    const double low = static_cast<double>(lo), high = static_cast<double>(hi);
    constexpr bool affine = std::is_same_v<Byte, std::uint8_t>;
    const double range = affine ? high - low : (-low > high ? -low : high), steps = affine ? 255 : 127;
    if (range < 0x1p-100) return {};
    byte_scale s{static_cast<float>(steps / range), static_cast<float>(range / steps), 0};
    if (affine) s.zero = _mm_cvtss_si32(_mm_set_ss(-lo * s.to_byte));  // to nearest even
    return s;
  }
};

template <class T, class Byte>
inline void quantize_row(const detail::quantize_rows_args& args, index row) {
  const T* const x = row_of<T>(args.x, row);
  Byte* const q = row_of<Byte>(args.q, row);
  const index cols = args.x.cols;
  vf lo = broadcast(0.0f), hi = lo, poison = lo;  // poison: NaN once x is not finite
  for_vectors(cols, [&](index i, auto lanes) {
    const vf v = lanes(x + i);
    lo = min(lo, v);
    hi = max(hi, v);
    poison += v * broadcast(0.0f);
  });
  byte_scale s;
  if (reduce_add(poison) == 0)
    s = byte_scale::of<Byte>(-reduce_max(broadcast(0.0f) - lo), reduce_max(hi));
  else
    s.to_value = __builtin_nanf("");
  const vf factor = broadcast(s.to_byte);
  index i = 0;
  if (s.to_byte == 0) {
    for (; i < cols; ++i) q[i] = 0;
  }
  for (; i + vf_size <= cols; i += vf_size) store_bytes(q + i, load(x + i) * factor, s.zero);
  if (i < cols) {
    Byte last[vf_size];
    store_bytes(last, load_first(x + i, cols - i) * factor, s.zero);
    for (index k = 0; i + k < cols; ++k) q[i + k] = last[k];
  }
  args.scales[row] = s.to_value;
  if (args.zeros != nullptr) args.zeros[row] = s.zero;
  if (args.sums != nullptr) {
    std::int32_t sum = 0;
    for (i = 0; i < cols; ++i) sum += q[i];
    args.sums[row] = sum;
  }
}

inline void quantize_rows(const detail::quantize_rows_args& args) {
  with_real(args.x.type, [&](auto type) {
    using T = decltype(type);
    const auto rows =
        args.q.type == dtype::u8 ? &quantize_row<T, std::uint8_t> : &quantize_row<T, std::int8_t>;
    parallel_rows(args.exec, args.x.rows, args.x.cols, [&](index first, index last) {
      for (index row = first; row < last; ++row) rows(args, row);
    });
  });
}

EINKORN_END_LEVEL
