/// Stores that go past the caches: detail/streaming.hpp says when. Only the kind of store depends on it.
#pragma once

#include <cstdint>

#include "simd.hpp"

EINKORN_BEGIN_LEVEL

// stream(p, v): p is a multiple of a vector's bytes, and streaming_done() comes before others may read.

#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
inline void stream(float* p, vf value) { _mm512_stream_ps(p, value); }
inline void stream(bf16* p, vf value) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(value));
}
inline void stream(fp16* p, vf value) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_fp16(value));
}
#else
#if EINKORN_LEVEL_AT_LEAST_AVX2
inline void stream(float* p, vf value) { _mm256_stream_ps(p, value); }
#else
inline void stream(float* p, vf value) { _mm_stream_ps(p, value); }
#endif
template <class T>
inline void stream(T* p, vf value) {
  alignas(16) T lanes[vf_size];
  store(lanes, value);
#if EINKORN_LEVEL_AT_LEAST_AVX2
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), _mm_load_si128(reinterpret_cast<const __m128i*>(lanes)));
#else
  long long both;
  __builtin_memcpy(&both, lanes, 8);
  _mm_stream_si64(reinterpret_cast<long long*>(p), both);
#endif
}
#endif
inline void streaming_done() { _mm_sfence(); }

/// A whole vector, past the caches or not: a branch that is predicted costs less than a second loop.
template <class T>
inline void put(T* p, vf value, bool past_caches) {
  if (past_caches) {
    stream(p, value);
  } else {
    store(p, value);
  }
}
/// Whether what is written from p on can be streamed: whole cache lines.
inline bool can_stream(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }

EINKORN_END_LEVEL
