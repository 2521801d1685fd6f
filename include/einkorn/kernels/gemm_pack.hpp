/// Packing: operands in any type and orientation to what a micro-kernel reads, from the vectors of words of
/// gemm_words.hpp.
#pragma once

#include "gemm_words.hpp"

EINKORN_BEGIN_LEVEL

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
    const index lines = depth <= 0 ? 0 : width < n ? width : n;
    const bool whole = depth >= n * group;
    for (int j = 0; j < n; ++j) {
      const Source* const from = s.data + (w0 + j) * s.stride + k0;
      out[j] = j >= lines ? broadcast(0.0f)
               : whole    ? words_along_k<Element>(from)
                          : words_along_k_first<Element>(from, depth);
    }
    if constexpr (!Along) transpose_words(out);
  } else {
    for (int i = 0; i < n; ++i) {
      const index left = depth - i * group;
      const Source* const from = s.data + (k0 + i * group) * s.stride + w0;
      out[i] = left <= 0 ? broadcast(0.0f)
               : left >= group && width >= n
                   ? words_across<Element>(from, s.stride)
                   : words_across_first<Element>(from, s.stride, left < group ? left : group,
                                                 width < n ? width : n);
    }
    if constexpr (Along) transpose_words(out);
  }
}

/// use(words, whole) with a square block of words: group g0 + i of line w0 + j. `along`: words[j] holds line
/// w0 + j, else words[i] holds group g0 + i. Beyond depth and width there are zeros. A whole block (whole is
/// std::true_type) never leaves the registers.
template <class Element, bool Along, class Source, class Use>
[[gnu::always_inline]] inline void gemm_words(const gemm_slice<Source>& s, index g0, index w0,
                                              const Use& use) {
  constexpr int n = vf_size, group = 4 / static_cast<int>(sizeof(Element));
  const index k0 = g0 * group, depth = s.depth - k0, width = s.width - w0;
  if (depth < n * group || width < n) {
    vf words[n];
    gemm_edge_words<Element, Along>(s, depth, width, k0, w0, words);
    return use(words, std::false_type());
  }
  vf words[n];
  constexpr bool as_is = sizeof(Element) == sizeof(Source);
  const Source* const from = s.data + (s.k_contiguous ? w0 * s.stride + k0 : k0 * s.stride + w0);
  if (as_is && (s.k_contiguous ? !Along : Along && group == 1)) {
    load_transposed(reinterpret_cast<const char*>(from), s.stride * static_cast<index>(sizeof(Source)),
                    words);
  } else {
    if (s.k_contiguous) {
      EINKORN_UNROLL
      for (int i = 0; i < n; ++i) words[i] = words_along_k<Element>(from + i * s.stride);
    } else {
      EINKORN_UNROLL
      for (int i = 0; i < n; ++i) words[i] = words_across<Element>(from + i * group * s.stride, s.stride);
    }
    if (s.k_contiguous != Along) transpose_words(words);
  }
  use(words, std::true_type());
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
  gemm_each_block(
      s.k_contiguous, groups, width, [&](index g, index w) __attribute__((always_inline)) {
        float* const to = reinterpret_cast<float*>(out + w / nr * panel_bytes) + g * nr + w % nr;
        const index rest = groups - g;
        if (w >= s.width) {
          for (index i = 0; i < rest && i < n; ++i) store(to + i * nr, broadcast(0.0f));
          return;
        }
        gemm_words<typename Kernel::element, false>(
            s, g, w, [&](const vf(&words)[n], auto whole) __attribute__((always_inline)) {
              if constexpr (whole) {
                EINKORN_UNROLL
                for (int i = 0; i < n; ++i) store(to + i * nr, words[i]);
              } else {
                for (index i = 0; i < rest && i < n; ++i) store(to + i * nr, words[i]);
              }
            });
      });
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  if constexpr (Kernel::flips_s8) {
    const __m512i ones = _mm512_set1_epi8(1);
    for (index w = 0; w < width; w += nr) {
      float* const words = reinterpret_cast<float*>(out + w / nr * panel_bytes);
      __m512i sums[4] = {};  // two vectors, even and odd groups: one chain alone would wait for itself
      const auto add = [&](index g, __m512i& low, __m512i& high) {
        low = _mm512_dpbusd_epi32(low, ones, _mm512_loadu_si512(words + g * nr));
        high = _mm512_dpbusd_epi32(high, ones, _mm512_loadu_si512(words + g * nr + n));
      };
      index g = 0;
      for (; g + 2 <= groups; g += 2) {
        add(g, sums[0], sums[1]);
        add(g + 1, sums[2], sums[3]);
      }
      if (g < groups) add(g, sums[0], sums[1]);
      for (int v = 0; v < 2; ++v) {
        const __m512i sum = _mm512_slli_epi32(_mm512_add_epi32(sums[v], sums[2 + v]), 7);
        _mm512_storeu_si512(words + groups * nr + v * n, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
      }
    }
  }
#endif
}

#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
/// 128 added to each byte: what turns s8 into u8 for vpdpbusd.
inline vf flip_bytes(vf words) {
  return _mm512_castsi512_ps(
      _mm512_xor_si512(_mm512_castps_si512(words), _mm512_set1_epi8(static_cast<char>(0x80))));
}
#endif

/// A block: width rows of depth elements (rounded up to k_step with zeros), `stride` bytes apart. Each row
/// has room for whole vectors. flip: 128 is added to each byte.
template <class Kernel, class Source>
inline void gemm_pack_a(const gemm_slice<Source>& s, char* out, index stride, [[maybe_unused]] bool flip) {
  using element = typename Kernel::element;
  constexpr int n = vf_size;
  if (s.k_contiguous) {  // one row after another: the hardware prefetcher follows
    constexpr index run = n * Kernel::k_group;
    for (index row = 0; row < s.width; ++row) {
      const Source* const from = s.data + row * s.stride;
      float* const to = reinterpret_cast<float*>(out + row * stride);
      for (index k = 0; k < s.depth; k += run) {
        const index left = s.depth - k;
        vf words =
            left >= run ? words_along_k<element>(from + k) : words_along_k_first<element>(from + k, left);
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
        if constexpr (sizeof(Source) == 1)
          if (flip) words = flip_bytes(words);
#endif
        store(to + k / Kernel::k_group, words);
      }
    }
    return;
  }
  const index groups = (s.depth + Kernel::k_group - 1) / Kernel::k_group;
  gemm_each_block(
      s.k_contiguous, groups, s.width, [&](index g, index w) __attribute__((always_inline)) {
        char* const to = out + w * stride + g * 4;
        const auto put = [&](index j, vf words) __attribute__((always_inline)) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
          if constexpr (sizeof(Source) == 1)
            if (flip) words = flip_bytes(words);
#endif
          store(reinterpret_cast<float*>(to + j * stride), words);
        };
        const index rows = s.width - w;
        gemm_words<element, true>(
            s, g, w, [&](const vf(&words)[n], auto whole) __attribute__((always_inline)) {
              if constexpr (whole) {
                EINKORN_UNROLL
                for (int j = 0; j < n; ++j) put(j, words[j]);
              } else {
                for (index j = 0; j < rows && j < n; ++j) put(j, words[j]);
              }
            });
      });
}

/// Each k-group is written as whole vectors, over the beginning of the next one: room for the last one's.
constexpr index gemm_a_panel_bytes(index groups, index step) { return groups * step + vf_size * 4; }

/// Panels of A from a slice that is not k_contiguous: tile_rows rows beside each other, `step` bytes for each
/// k-group. No transposition: a row of memory is a row of the panels. The slice may be wider than `rows`.
template <class Kernel, class Source>
inline void gemm_pack_a_panels(const gemm_slice<Source>& s, index rows, char* out, index tile_rows,
                               index step, [[maybe_unused]] bool flip) {
  using element = typename Kernel::element;
  constexpr int n = vf_size, group = Kernel::k_group;
  // Rows of memory are often pages apart, where no hardware prefetcher helps: halves the time from memory.
  constexpr index ahead = 24, line = 64 / static_cast<index>(sizeof(Source));
  const index panel_bytes = gemm_a_panel_bytes((s.depth + group - 1) / group, step);
  for (index k = 0; k < s.depth; k += group, out += step) {
    const Source* const from = s.data + k * s.stride;
    const index left = s.depth - k;
    char* to = out;
    for (index i = 0; i < group; ++i)
      for (index row = 0; row < s.width; row += line) __builtin_prefetch(from + (ahead + i) * s.stride + row);
    for (index row = 0; row < rows; row += tile_rows, to += panel_bytes) {
      for (index w = 0; w * 4 < step && row + w < s.width; w += n) {
        const index width = s.width - row - w;
        vf words = left >= group && width >= n
                       ? words_across<element>(from + row + w, s.stride)
                       : words_across_first<element>(from + row + w, s.stride, left < group ? left : group,
                                                     width < n ? width : n);
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
        if constexpr (sizeof(Source) == 1)
          if (flip) words = flip_bytes(words);
#endif
        store(reinterpret_cast<float*>(to) + w, words);
      }
    }
  }
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

/// A is transposed. More rows than `rows` may be read, where A has them.
template <class Kernel>
inline void gemm_pack_row_panels(const any_matrix& a, index offset, index row, index rows, index k,
                                 index depth, char* out, index tile_rows, index step) {
  const index width = a.rows - row < rows + vf_size ? a.rows - row : rows + vf_size;
  gemm_with_slice<Kernel>(a, true, offset, k, depth, row, width, [&](const auto& slice) {
    gemm_pack_a_panels<Kernel>(slice, rows, out, tile_rows, step, Kernel::flips_s8 && a.type == dtype::s8);
  });
}

template <class Kernel>
inline void gemm_pack_columns(const any_matrix& b, index offset, index col, index cols, index k, index depth,
                              char* out, index panel_bytes) {
  gemm_with_slice<Kernel>(b, false, offset, k, depth, col, cols,
                          [&](const auto& slice) { gemm_pack_b<Kernel>(slice, out, panel_bytes); });
}

EINKORN_END_LEVEL
