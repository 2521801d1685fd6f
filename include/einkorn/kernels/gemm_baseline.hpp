/// GEMM instructions of SSE2: multiply and add; tile 6 x 8 in 12 of 16 registers, 2 for B, 1 for A, 1
/// product.
#pragma once

#include "gemm_tile.hpp"

EINKORN_BEGIN_LEVEL

#if !EINKORN_LEVEL_AT_LEAST_AVX2

struct mulps_x4 : unmasked_instruction {
  using element = float;
  using accumulator = float;
  using vector = __m128;
  using group = __m128;
  static constexpr int lanes = 4;
  static vector zero() { return _mm_setzero_ps(); }
  static vector load(const float* p) { return _mm_loadu_ps(p); }
  static void store(float* p, vector x) { _mm_storeu_ps(p, x); }
  static vector add(vector x, vector y) { return _mm_add_ps(x, y); }
  static float sum(vector x) { return reduce_add(x); }
  static group as_groups(vf words) { return words; }
  static group load_groups(const char* p) { return _mm_loadu_ps(reinterpret_cast<const float*>(p)); }
  static group load_groups(const char* p, no_mask) { return load_groups(p); }
  static group broadcast(const char* p) { return _mm_set1_ps(*reinterpret_cast<const float*>(p)); }
  static vector multiply_add(vector acc, group a, group b) { return _mm_add_ps(acc, _mm_mul_ps(a, b)); }
};

/// Bytes are widened to i16 while packing: the sum of two products fits i32, and paddd wraps.
struct pmaddwd_x4 : unmasked_instruction {
  using element = std::int16_t;
  using accumulator = std::int32_t;
  using vector = __m128i;
  using group = __m128i;
  static constexpr int lanes = 4;
  static vector zero() { return _mm_setzero_si128(); }
  static vector load(const std::int32_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static void store(std::int32_t* p, vector x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x); }
  static vector add(vector x, vector y) { return _mm_add_epi32(x, y); }
  static std::int32_t sum(vector x) { return wrapping_sum(x); }
  static group as_groups(vf words) { return _mm_castps_si128(words); }
  static group load_groups(const char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static group load_groups(const char* p, no_mask) { return load_groups(p); }
  static group broadcast(const char* p) {
    return _mm_castps_si128(_mm_set1_ps(*reinterpret_cast<const float*>(p)));
  }
  static vector multiply_add(vector acc, group a, group b) {
    return _mm_add_epi32(acc, _mm_madd_epi16(a, b));
  }
};

using gemm_f32 = gemm_vector_kernel<mulps_x4, 6>;
using gemm_int8 = gemm_vector_kernel<pmaddwd_x4, 6>;

#endif

EINKORN_END_LEVEL
