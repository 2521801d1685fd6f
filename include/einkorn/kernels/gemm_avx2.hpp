/// GEMM instructions of AVX2 and FMA; tile 6 x 16 in 12 of 16 registers, 2 for B, 1 for A, 1 free.
#pragma once

#include "gemm_tile.hpp"

EINKORN_BEGIN_LEVEL

#if EINKORN_LEVEL_AT_LEAST_AVX2 && !EINKORN_LEVEL_AT_LEAST_AVX512_VNNI

struct fmaps_x8 : unmasked_instruction {
  using element = float;
  using accumulator = float;
  using vector = __m256;
  using group = __m256;
  static constexpr int lanes = 8;
  static vector zero() { return _mm256_setzero_ps(); }
  static vector load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, vector x) { _mm256_storeu_ps(p, x); }
  static vector add(vector x, vector y) { return _mm256_add_ps(x, y); }
  static float sum(vector x) { return reduce_add(x); }
  static group as_groups(vf words) { return words; }
  static group load_groups(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  static group load_groups(const char* p, no_mask) { return load_groups(p); }
  static group broadcast(const char* p) { return _mm256_broadcast_ss(reinterpret_cast<const float*>(p)); }
  /// Said in assembly: the sum must stay in its register. With the intrinsic g++ moves sums about and spills
  /// some.
  static vector multiply_add(vector acc, group a, group b) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
    return acc;
  }
};

/// Exact, where vpmaddubsw saturates: bytes are widened to i16 while packing, and vpaddd wraps.
struct vpmaddwd_x8 : unmasked_instruction {
  using element = std::int16_t;
  using accumulator = std::int32_t;
  using vector = __m256i;
  using group = __m256i;
  static constexpr int lanes = 8;
  static vector zero() { return _mm256_setzero_si256(); }
  static vector load(const std::int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store(std::int32_t* p, vector x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static vector add(vector x, vector y) { return _mm256_add_epi32(x, y); }
  static std::int32_t sum(vector x) { return wrapping_sum(x); }
  static group as_groups(vf words) { return _mm256_castps_si256(words); }
  static group load_groups(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static group load_groups(const char* p, no_mask) { return load_groups(p); }
  static group broadcast(const char* p) {
    return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(p)));
  }
  static vector multiply_add(vector acc, group a, group b) {
    vector product;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
    return acc;
  }
};

using gemm_f32 = gemm_vector_kernel<fmaps_x8, 6>;
using gemm_int8 = gemm_vector_kernel<vpmaddwd_x8, 6>;

#endif

EINKORN_END_LEVEL
