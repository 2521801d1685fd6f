/// Packing: operands in any type and orientation to what a micro-kernel reads.
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
    const auto x0 = extend<Element>(p), x1 = extend<Element>(p + stride);
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
    if constexpr (sizeof(Element) == 2) {
      return _mm512_castsi512_ps(_mm512_or_si512(x0, _mm512_slli_epi32(x1, 16)));
    } else {
      const auto x2 = extend<Element>(p + 2 * stride), x3 = extend<Element>(p + 3 * stride);
      const __m512i low = _mm512_or_si512(x0, _mm512_slli_epi32(x1, 8));
      const __m512i high = _mm512_or_si512(_mm512_slli_epi32(x2, 16), _mm512_slli_epi32(x3, 24));
      return _mm512_castsi512_ps(_mm512_or_si512(low, high));
    }
#elif EINKORN_LEVEL_AT_LEAST_AVX2
    const __m256i low = _mm256_and_si256(x0, _mm256_set1_epi32(0xffff));
    return _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_slli_epi32(x1, 16)));
#else
    const __m128i low = _mm_and_si128(x0, _mm_set1_epi32(0xffff));
    return _mm_castsi128_ps(_mm_or_si128(low, _mm_slli_epi32(x1, 16)));
#endif
  }
}

// ---- vf_size x vf_size words, rows to columns, in registers

inline void transpose_words(vf (&x)[vf_size]) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  __m512 t[16], u[16];
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
  for (int i = 0; i < 16; i += 4) {  // u[i + c]: columns c, c+4, c+8, c+12 of rows i .. i+3
    u[i] = low(t[i], t[i + 2]);
    u[i + 1] = high(t[i], t[i + 2]);
    u[i + 2] = low(t[i + 1], t[i + 3]);
    u[i + 3] = high(t[i + 1], t[i + 3]);
  }
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
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    x[c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
    x[c + 4] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
  }
#else
  __m128 a = x[0], b = x[1], c = x[2], d = x[3];
  _MM_TRANSPOSE4_PS(a, b, c, d);
  x[0] = a;
  x[1] = b;
  x[2] = c;
  x[3] = d;
#endif
}

// ---- one operand as the packers see it: `lines` contiguous runs of memory

/// A depth x width slice of an operand; width runs over columns of B or rows of A. k_contiguous: element
/// (k, w) is data[w * stride + k], else data[k * stride + w].
template <class Source>
struct gemm_slice {
  const Source* data;
  index stride, depth, width;
  bool k_contiguous;
};

/// gemm_words where the block is cut off by depth or width.
template <class Element, bool Along, class Source>
[[gnu::noinline]] inline void gemm_edge_words(const gemm_slice<Source>& s, index depth, index width, index k0,
                                              index w0, vf (&out)[vf_size]) {
  constexpr int n = vf_size, group = 4 / static_cast<int>(sizeof(Element));
  if (s.k_contiguous) {
    const index lines = width < n ? width : n;
    for (int j = 0; j < n; ++j) {
      if (j >= lines || depth <= 0) {
        out[j] = broadcast(0.0f);
      } else if (depth >= n * group) {
        out[j] = words_along_k<Element>(s.data + (w0 + j) * s.stride + k0);
      } else {
        Source staged[n * group] = {};
        __builtin_memcpy(staged, s.data + (w0 + j) * s.stride + k0,
                         static_cast<std::size_t>(depth) * sizeof(Source));
        out[j] = words_along_k<Element>(staged);
      }
    }
    if constexpr (!Along) transpose_words(out);
  } else {
    for (int i = 0; i < n; ++i) {
      const index left = depth - i * group;
      const Source* const from = s.data + (k0 + i * group) * s.stride + w0;
      if (left <= 0) {
        out[i] = broadcast(0.0f);
      } else if (left >= group && width >= n) {
        out[i] = words_across<Element>(from, s.stride);
      } else {
        Source staged[group][n] = {};
        for (index k = 0; k < (left < group ? left : group); ++k)
          __builtin_memcpy(staged[k], from + k * s.stride,
                           static_cast<std::size_t>(width < n ? width : n) * sizeof(Source));
        out[i] = words_across<Element>(&staged[0][0], n);
      }
    }
    if constexpr (Along) transpose_words(out);
  }
}

/// Square block of words: group g0 + i of line w0 + j. `along`: out[j] holds line w0 + j, else out[i] holds
/// group g0 + i. Beyond depth and width there are zeros.
template <class Element, bool Along, class Source>
inline void gemm_words(const gemm_slice<Source>& s, index g0, index w0, vf (&out)[vf_size]) {
  constexpr int n = vf_size, group = 4 / static_cast<int>(sizeof(Element));
  const index k0 = g0 * group, depth = s.depth - k0, width = s.width - w0;
  if (depth >= n * group && width >= n) {  // a whole block: nothing but registers
    if (s.k_contiguous) {
      const Source* const from = s.data + w0 * s.stride + k0;
      EINKORN_UNROLL
      for (int j = 0; j < n; ++j) out[j] = words_along_k<Element>(from + j * s.stride);
    } else {
      const Source* const from = s.data + k0 * s.stride + w0;
      EINKORN_UNROLL
      for (int i = 0; i < n; ++i) out[i] = words_across<Element>(from + i * group * s.stride, s.stride);
    }
    if (s.k_contiguous != Along) transpose_words(out);
  } else {
    gemm_edge_words<Element, Along>(s, depth, width, k0, w0, out);
  }
}

/// visit(g, w) for the blocks of groups x width words, in the order of memory: neighbouring rows of an
/// operand are often a page or more apart.
template <class Visit>
inline void gemm_each_block(bool k_contiguous, index groups, index width, const Visit& visit) {
  if (k_contiguous) {
    for (index w = 0; w < width; w += vf_size)
      for (index g = 0; g < groups; g += vf_size) visit(g, w);
  } else {
    for (index g = 0; g < groups; g += vf_size)
      for (index w = 0; w < width; w += vf_size) visit(g, w);
  }
}

/// B panels, panel_bytes apart: groups x nr words each, columns beyond width zero, groups rounded up to
/// k_step. Then, where the kernel flips s8, -128 times the sum of each column.
template <class Kernel, class Source>
inline void gemm_pack_b(const gemm_slice<Source>& s, char* out, index panel_bytes) {
  constexpr int n = vf_size, nr = Kernel::nr;
  const index groups = (s.depth + Kernel::k_step - 1) / Kernel::k_step * (Kernel::k_step / Kernel::k_group);
  const index width = (s.width + nr - 1) / nr * nr;
  gemm_each_block(s.k_contiguous, groups, width, [&](index g, index w) {
    float* const to = reinterpret_cast<float*>(out + w / nr * panel_bytes) + g * nr + w % nr;
    vf block[n];
    if (w < s.width) {
      gemm_words<typename Kernel::element, false>(s, g, w, block);
    } else {
      for (int i = 0; i < n; ++i) block[i] = broadcast(0.0f);
    }
    if (groups - g >= n) {
      EINKORN_UNROLL
      for (int i = 0; i < n; ++i) store(to + i * nr, block[i]);
    } else {
      for (index i = 0; i < groups - g; ++i) store(to + i * nr, block[i]);
    }
  });
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  if constexpr (Kernel::flips_s8) {
    for (index w = 0; w < width; w += n) {
      float* const words = reinterpret_cast<float*>(out + w / nr * panel_bytes) + w % nr;
      __m512i sum = _mm512_setzero_si512();
      for (index g = 0; g < groups; ++g)
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_loadu_si512(words + g * nr));
      const __m512i compensation = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 7));
      _mm512_storeu_si512(words + groups * nr, compensation);
    }
  }
#endif
}

/// A block: width rows of depth elements (rounded up to k_step with zeros), `stride` bytes apart. Each row
/// has room for whole vectors. flip: 128 is added to each byte.
template <class Kernel, class Source>
inline void gemm_pack_a(const gemm_slice<Source>& s, char* out, index stride, [[maybe_unused]] bool flip) {
  constexpr int n = vf_size;
  const index groups = (s.depth + Kernel::k_group - 1) / Kernel::k_group;
  gemm_each_block(s.k_contiguous, groups, s.width, [&](index g, index w) {
    vf block[n];
    gemm_words<typename Kernel::element, true>(s, g, w, block);
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
    if constexpr (sizeof(Source) == 1) {
      const __m512i change = _mm512_set1_epi8(static_cast<char>(flip ? 0x80 : 0));
      EINKORN_UNROLL
      for (int j = 0; j < n; ++j)
        block[j] = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(block[j]), change));
    }
#endif
    char* const to = out + w * stride + g * 4;
    if (s.width - w >= n) {
      EINKORN_UNROLL
      for (int j = 0; j < n; ++j) store(reinterpret_cast<float*>(to + j * stride), block[j]);
    } else {
      for (index j = 0; j < s.width - w; ++j) store(reinterpret_cast<float*>(to + j * stride), block[j]);
    }
  });
}

/// body(slice) with `depth` k of `width` columns of B (rows of A if `is_a`) from (k0, w0).
template <class Kernel, class Body>
inline void gemm_with_slice(const any_matrix& m, bool is_a, index offset, index k0, index depth, index w0,
                            index width, const Body& body) {
  const bool k_contiguous = m.transposed != is_a;
  const index start = offset + (k_contiguous ? w0 * m.stride + k0 : k0 * m.stride + w0);
  const auto visit = [&](auto* data) {
    body(gemm_slice<std::remove_pointer_t<decltype(data)>>{data + start, m.stride, depth, width,
                                                           k_contiguous});
  };
  if constexpr (std::is_same_v<typename Kernel::accumulator, std::int32_t>) {
    if (m.type == dtype::u8) {
      visit(static_cast<std::uint8_t*>(m.data));
    } else {
      visit(static_cast<std::int8_t*>(m.data));
    }
  } else if constexpr (sizeof(typename Kernel::element) == 2) {  // bf16 or fp16, as it is
    visit(static_cast<typename Kernel::element*>(m.data));
  } else {
    if (m.type == dtype::f32) {
      visit(static_cast<float*>(m.data));
    } else if (m.type == dtype::bf16) {
      visit(static_cast<bf16*>(m.data));
    } else {
      visit(static_cast<fp16*>(m.data));
    }
  }
}

template <class Kernel>
inline void gemm_pack_rows(const any_matrix& a, index offset, index row, index rows, index k, index depth,
                           char* out, index stride) {
  gemm_with_slice<Kernel>(a, true, offset, k, depth, row, rows, [&](const auto& slice) {
    gemm_pack_a<Kernel>(slice, out, stride, Kernel::flips_s8 && a.type == dtype::s8);
  });
}

template <class Kernel>
inline void gemm_pack_columns(const any_matrix& b, index offset, index col, index cols, index k, index depth,
                              char* out, index panel_bytes) {
  gemm_with_slice<Kernel>(b, false, offset, k, depth, col, cols,
                          [&](const auto& slice) { gemm_pack_b<Kernel>(slice, out, panel_bytes); });
}

EINKORN_END_LEVEL
