/// The vector of the level: f32 lanes through xsimd, with the conversions that xsimd lacks.
///
/// One source compiles for every level; what differs between xsimd 8.1 and 14.1 is hidden here.
#pragma once

#include "../detail/level.hpp"  // before xsimd: it renames xsimd for this object

#include <immintrin.h>

#include <xsimd/xsimd.hpp>

#include <type_traits>

#include "../types.hpp"

/// Before a loop over an array of vectors: without it g++ -O2 keeps the array in memory.
#if defined(__clang__)
#define EINKORN_UNROLL _Pragma("unroll")
#else
#define EINKORN_UNROLL _Pragma("GCC unroll 16")
#endif

EINKORN_BEGIN_LEVEL

#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
using vf_arch = ::xsimd::avx512bw;
#elif EINKORN_LEVEL_AT_LEAST_AVX2
using vf_arch = ::xsimd::fma3< ::xsimd::avx2>;
#else
using vf_arch = ::xsimd::sse2;
#endif
using vf = ::xsimd::batch<float, vf_arch>;
inline constexpr int vf_size = static_cast<int>(vf::size);

inline vf broadcast(float value) { return vf(value); }
/// a * b + c; two roundings on baseline. Not xsimd's: in 8.1 that of avx512bw is a product and a sum.
inline vf fma(vf a, vf b, vf c) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_fmadd_ps(a, b, c);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}
inline vf max(vf a, vf b) { return ::xsimd::max(a, b); }
inline vf min(vf a, vf b) { return ::xsimd::min(a, b); }
inline vf sqrt(vf a) { return ::xsimd::sqrt(a); }
inline vf abs(vf a) { return ::xsimd::abs(a); }

/// Two vectors side by side. A function of both alternates between them, instruction by instruction: of a
/// chain as long as e^x has, a core keeps too few in flight when they come one after the other.
struct two_vectors {
  vf first, second;
  two_vectors() = default;
  two_vectors(vf a, vf b) : first(a), second(b) {}
  two_vectors(vf both) : first(both), second(both) {}
};
inline two_vectors operator+(two_vectors a, two_vectors b) {
  return {a.first + b.first, a.second + b.second};
}
inline two_vectors operator-(two_vectors a, two_vectors b) {
  return {a.first - b.first, a.second - b.second};
}
inline two_vectors operator*(two_vectors a, two_vectors b) {
  return {a.first * b.first, a.second * b.second};
}
/// f of both, as one where f takes two vectors.
template <class F>
inline two_vectors of_both(const F& f, two_vectors v) {
  if constexpr (std::is_invocable_v<F, two_vectors>)
    return f(v);
  else
    return {f(v.first), f(v.second)};
}
inline two_vectors fma(two_vectors a, two_vectors b, two_vectors c) {
  return {fma(a.first, b.first, c.first), fma(a.second, b.second, c.second)};
}

/// Lane order of the sums is fixed by the halving: the same on every call.
inline float reduce_add(vf a) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_reduce_add_ps(a);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  const __m128 two = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#endif
}
inline float reduce_max(vf a) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_reduce_max_ps(a);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  const __m128 two = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
#endif
}

inline float first_lane(vf x) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_cvtss_f32(x);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  return _mm256_cvtss_f32(x);
#else
  return _mm_cvtss_f32(x);
#endif
}

// ---- loads: f32 lanes from f32, bf16 or fp16, any alignment

inline vf load(const float* p) { return vf::load_unaligned(p); }

#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI

inline vf widen_bf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
inline vf load(const bf16* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline vf load(const fp16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __mmask16 first_lanes(index count) { return static_cast<__mmask16>((1u << count) - 1u); }
inline vf load_first(const float* p, index count, float fill = 0) {
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(count), p);
}
inline vf load_first(const bf16* p, index count, float fill = 0) {
  const __mmask16 lanes = first_lanes(count);
  return _mm512_mask_blend_ps(lanes, _mm512_set1_ps(fill), widen_bf16(_mm256_maskz_loadu_epi16(lanes, p)));
}
inline vf load_first(const fp16* p, index count, float fill = 0) {
  const __mmask16 lanes = first_lanes(count);
  return _mm512_mask_blend_ps(lanes, _mm512_set1_ps(fill),
                              _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p)));
}

#else

#if EINKORN_LEVEL_AT_LEAST_AVX2
inline vf load(const bf16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline vf load(const fp16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#else
inline vf load(const bf16* p) {
  const __m128i brief = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), brief));
}
inline vf load(const fp16* p) {
  // The exponent is rebiased by a multiplication with 2^112, exact for denormals too; infinity and NaN,
  // whose exponent bits are all ones, get theirs by an or. A signalling NaN is made quiet.
  const __m128i half =
      _mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128());
  const __m128i sign = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x8000)), 16);
  const __m128i magnitude = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x7fff)), 13);
  const __m128 value = _mm_mul_ps(_mm_castsi128_ps(magnitude), _mm_set1_ps(0x1p112f));
  const __m128i special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x0f7fffff));
  const __m128i nan = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x0f800000));
  const __m128i special_bits = _mm_or_si128(_mm_or_si128(magnitude, _mm_set1_epi32(0x7f800000)),
                                            _mm_and_si128(nan, _mm_set1_epi32(0x00400000)));
  const __m128i bits =
      _mm_or_si128(_mm_andnot_si128(special, _mm_castps_si128(value)), _mm_and_si128(special, special_bits));
  return _mm_castsi128_ps(_mm_or_si128(bits, sign));
}
#endif

/// `count` < 8 elements, in pieces of fixed sizes: no loop, no call of memcpy.
template <class T>
inline void copy_first(T* to, const T* from, index count) {
  if (count & 4) {
    __builtin_memcpy(to, from, 4 * sizeof(T));
    to += 4;
    from += 4;
  }
  if (count & 2) {
    __builtin_memcpy(to, from, 2 * sizeof(T));
    to += 2;
    from += 2;
  }
  if (count & 1) *to = *from;
}

/// The first `count` < vf_size elements; the other lanes are `fill`. Reads nothing beyond them. (Not by
/// vmaskmovps: qemu 7.2 reads all its lanes.)
template <class T>
inline vf load_first(const T* p, index count, float fill = 0) {
  T lanes[vf_size] = {};
  copy_first(lanes, p, count);
  const vf value = load(lanes);
  if (fill == 0) return value;
  float filled[vf_size];
  value.store_unaligned(filled);
  for (index i = count; i < vf_size; ++i) filled[i] = fill;
  return load(filled);
}

#endif

// ---- stores: round to nearest even; bf16 flushes denormals (types.hpp), fp16 keeps them

inline void store(float* p, vf value) { value.store_unaligned(p); }

#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI

#if !EINKORN_LEVEL_AT_LEAST_AVX512_BF16
/// The bf16 in the upper half of each lane; the lower half is anything.
inline __m512i round_to_bf16(vf value) {
  const __m512i x = _mm512_castps_si512(value);
  const __m512i magnitude = _mm512_and_si512(x, _mm512_set1_epi32(0x7fffffff));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  const __mmask16 tiny = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x00800000));
  const __m512i quiet = _mm512_or_si512(x, _mm512_set1_epi32(0x00400000));
  const __m512i sign = _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0x80000000u)));
  return _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), tiny, sign);
}
#endif
inline __m256i narrow_bf16(vf value) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
#else
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_to_bf16(value), 16));
#endif
}
inline __m256i narrow_fp16(vf value) {
  return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline void store(bf16* p, vf value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(value));
}
inline void store(fp16* p, vf value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_fp16(value));
}
inline void store_first(float* p, vf value, index count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), value);
}
inline void store_first(bf16* p, vf value, index count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), narrow_bf16(value));
}
inline void store_first(fp16* p, vf value, index count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), narrow_fp16(value));
}

#else

#if EINKORN_LEVEL_AT_LEAST_AVX2
inline __m256i round_to_bf16(vf value) {
  const __m256i x = _mm256_castps_si256(value);
  const __m256i magnitude = _mm256_and_si256(x, _mm256_set1_epi32(0x7fffffff));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  const __m256i tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
  const __m256i quiet = _mm256_or_si256(x, _mm256_set1_epi32(0x00400000));
  const __m256i sign = _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0x80000000u)));
  return _mm256_blendv_epi8(_mm256_blendv_epi8(rounded, quiet, nan), sign, tiny);
}
inline void store(bf16* p, vf value) {
  const __m256i high = _mm256_srli_epi32(round_to_bf16(value), 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
inline void store(fp16* p, vf value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
inline __m128i round_to_bf16(vf value) {
  const __m128i x = _mm_castps_si128(value);
  const __m128i magnitude = _mm_and_si128(x, _mm_set1_epi32(0x7fffffff));
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(x, 16), _mm_set1_epi32(1));
  const __m128i rounded = _mm_add_epi32(_mm_add_epi32(x, _mm_set1_epi32(0x7fff)), odd);
  const __m128i nan = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7f800000));
  const __m128i tiny = _mm_cmpgt_epi32(_mm_set1_epi32(0x00800000), magnitude);
  const __m128i quiet = _mm_or_si128(x, _mm_set1_epi32(0x00400000));
  const __m128i sign = _mm_and_si128(x, _mm_set1_epi32(static_cast<int>(0x80000000u)));
  __m128i chosen = _mm_or_si128(_mm_andnot_si128(nan, rounded), _mm_and_si128(nan, quiet));
  return _mm_or_si128(_mm_andnot_si128(tiny, chosen), _mm_and_si128(tiny, sign));
}
inline void store(bf16* p, vf value) {
  // The arithmetic shift keeps each lane within i16, so the saturating pack changes nothing.
  const __m128i high = _mm_srai_epi32(round_to_bf16(value), 16);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(high, high));
}
inline void store(fp16* p, vf value) {
  float lanes[vf_size];
  store(lanes, value);
  for (int i = 0; i < vf_size; ++i) p[i] = fp16(lanes[i]);
}
#endif

/// The first `count` < vf_size lanes. Writes nothing beyond them.
template <class T>
inline void store_first(T* p, vf value, index count) {
  T lanes[vf_size];
  store(lanes, value);
  copy_first(p, lanes, count);
}

#endif

EINKORN_END_LEVEL
