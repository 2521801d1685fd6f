/// GEMM instructions of AVX-512; tile 14 x 32 in 28 of 32 registers, 2 for B, 1 for A, 1 free.
#pragma once

#include "gemm_tile.hpp"

EINKORN_BEGIN_LEVEL

#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI

/// Four bytes of A at any address, in a vector register: through a general one a broadcast costs port 5.
inline float load_word(const char* p) {
  float word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

/// What the instructions share whose accumulator is f32.
struct f32_sums_x16 {
  using accumulator = float;
  using vector = __m512;
  static constexpr int lanes = 16;
  static constexpr bool flips_s8 = false, masks = true;
  static __mmask16 mask(int columns) { return static_cast<__mmask16>((1u << columns) - 1u); }
  static vector zero() { return _mm512_setzero_ps(); }
  static vector load(const float* p) { return _mm512_loadu_ps(p); }
  static vector load(const float* p, __mmask16 wanted) { return _mm512_maskz_loadu_ps(wanted, p); }
  static void store(float* p, vector x) { _mm512_storeu_ps(p, x); }
  static void store(float* p, vector x, __mmask16 wanted) { _mm512_mask_storeu_ps(p, wanted, x); }
  static vector add(vector x, vector y) { return _mm512_add_ps(x, y); }
  static float sum(vector x) { return reduce_add(x); }
};

struct fmaps_x16 : f32_sums_x16 {
  using element = float;
  using group = __m512;
  static group as_groups(vf words) { return words; }
  static group load_groups(const char* p) { return _mm512_loadu_ps(p); }
  static group load_groups(const char* p, __mmask16 wanted) { return _mm512_maskz_loadu_ps(wanted, p); }
  static group broadcast(const char* p) { return _mm512_set1_ps(*reinterpret_cast<const float*>(p)); }
  static vector multiply_add(vector acc, group a, group b) { return _mm512_fmadd_ps(a, b, acc); }
};

/// u8 times s8, four products added to an i32 that wraps. A of s8 has 128 added while packing, and the tile
/// starts from -128 times the column sums of B.
struct vpdpbusd_x16 {
  using element = std::int8_t;
  using accumulator = std::int32_t;
  using vector = __m512i;
  using group = __m512i;
  static constexpr int lanes = 16;
  static constexpr bool flips_s8 = true, masks = true;
  static __mmask16 mask(int columns) { return static_cast<__mmask16>((1u << columns) - 1u); }
  static vector zero() { return _mm512_setzero_si512(); }
  static vector load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static vector load(const std::int32_t* p, __mmask16 wanted) { return _mm512_maskz_loadu_epi32(wanted, p); }
  static void store(std::int32_t* p, vector x) { _mm512_storeu_si512(p, x); }
  static void store(std::int32_t* p, vector x, __mmask16 wanted) { _mm512_mask_storeu_epi32(p, wanted, x); }
  static vector add(vector x, vector y) { return _mm512_add_epi32(x, y); }
  static std::int32_t sum(vector x) { return _mm512_reduce_add_epi32(x); }
  static group as_groups(vf words) { return _mm512_castps_si512(words); }
  static group load_groups(const char* p) { return _mm512_loadu_si512(p); }
  static group load_groups(const char* p, __mmask16 wanted) { return _mm512_maskz_loadu_epi32(wanted, p); }
  static group broadcast(const char* p) { return _mm512_castps_si512(_mm512_set1_ps(load_word(p))); }
  static vector multiply_add(vector acc, group a, group b) { return _mm512_dpbusd_epi32(acc, a, b); }
};

using gemm_f32 = gemm_vector_kernel<fmaps_x16, 14>;
using gemm_int8 = gemm_vector_kernel<vpdpbusd_x16, 14>;

#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16

/// Two products of bf16 added to an f32; denormal operands count as zero.
struct vdpbf16ps_x16 : f32_sums_x16 {
  using element = bf16;
  using group = __m512i;
  static group as_groups(vf words) { return _mm512_castps_si512(words); }
  static group load_groups(const char* p) { return _mm512_loadu_si512(p); }
  static group load_groups(const char* p, __mmask16 wanted) { return _mm512_maskz_loadu_epi32(wanted, p); }
  static group broadcast(const char* p) {
    group a = _mm512_castps_si512(_mm512_set1_ps(load_word(p)));
    __asm__("" : "+v"(a));  // clang 16 crashes where it folds the broadcast into vdpbf16ps
    return a;
  }
  static vector multiply_add(vector acc, group a, group b) {
    return _mm512_dpbf16_ps(acc, std::bit_cast<__m512bh>(a), std::bit_cast<__m512bh>(b));
  }
};

using gemm_bf16 = gemm_vector_kernel<vdpbf16ps_x16, 14>;

#endif
#endif

EINKORN_END_LEVEL
