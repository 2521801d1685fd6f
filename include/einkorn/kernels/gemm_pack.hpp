/// Packing: operands in any type and orientation to what a micro-kernel reads, from the vectors of words of
/// gemm_words.hpp.
#pragma once

#include <algorithm>

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

/// flip: 128 added to each byte, what turns s8 into u8 for vpdpbusd.
template <class Source>
inline vf gemm_flipped(vf words, [[maybe_unused]] bool flip) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  if constexpr (sizeof(Source) == 1)
    if (flip)
      return _mm512_castsi512_ps(
          _mm512_xor_si512(_mm512_castps_si512(words), _mm512_set1_epi8(static_cast<char>(0x80))));
#endif
  return words;
}

/// k-groups that a panel takes before the next one does.
inline constexpr index gemm_pack_groups = 16;

/// Fetches lines of `width` elements of one row after another.
template <class Source>
struct gemm_row_fetcher {
  const Source* row;
  index stride, width, column = 0;
  void operator()() {
    __builtin_prefetch(row + column, 0, 2);
    column += 64 / static_cast<index>(sizeof(Source));
    if (column >= width) {
      column = 0;
      row += stride;
    }
  }
};

/// Panels from a slice that is not k_contiguous, panel_bytes apart: tile_width words beside each other,
/// `step` bytes for each k-group. No transposition: a row of memory is a row of the panels. Panels cover
/// `width` words; beyond those of the slice, which may be wider, there are zeros.
template <class Element, class Source>
inline void gemm_pack_across(const gemm_slice<Source>& s, index width, char* out, index panel_bytes,
                             index tile_width, index step, bool flip) {
  constexpr int n = vf_size, group = 4 / static_cast<int>(sizeof(Element));
  constexpr index rows = gemm_pack_groups * group, line = 64 / static_cast<index>(sizeof(Source));
  const index tile_words = step / 4, tiles = (width + tile_width - 1) / tile_width;
  for (index k0 = 0; k0 < s.depth; k0 += rows, out += gemm_pack_groups * step) {
    const index depth = std::min(rows, s.depth - k0);
    // Rows of memory are often pages apart, and panels take them piece by piece: no hardware prefetcher
    // helps. Meanwhile the next rows are fetched from end to end.
    gemm_row_fetcher<Source> next{s.data + (k0 + rows) * s.stride, s.stride, s.width};
    const index lines = rows * ((s.width + line - 1) / line), turns = tiles * gemm_pack_groups;
    const index lines_a_turn = (lines + turns - 1) / turns;
    for (index tile = 0; tile < tiles; ++tile) {
      const Source* from = s.data + k0 * s.stride + tile * tile_width;
      char* to = out + tile * panel_bytes;
      const index rest = s.width - tile * tile_width;
      // A whole vector may reach into the next k-group, which is written later; nothing beyond the last one.
      const bool whole = rest >= (tile_words + n - 1) / n * n, goes_on = k0 + depth < s.depth;
      const index quick = !whole ? 0 : goes_on || tile_words % n == 0 ? depth / group : (depth - 1) / group;
      for (index g = 0; g < quick; ++g, to += step, from += group * s.stride) {
        for (index i = 0; i < lines_a_turn; ++i) next();
        for (index w = 0; w < tile_words; w += n)
          store(reinterpret_cast<float*>(to) + w,
                gemm_flipped<Source>(words_across<Element>(from + w, s.stride), flip));
      }
      for (index k = quick * group; k < depth; k += group, to += step, from += group * s.stride) {
        for (index w = 0; w < tile_words; w += n) {
          const vf words = gemm_flipped<Source>(
              rest <= w ? broadcast(0.0f)
                        : words_across_first<Element>(from + w, s.stride, std::min<index>(depth - k, group),
                                                      std::min<index>(rest - w, n)),
              flip);
          float* const out_words = reinterpret_cast<float*>(to) + w;
          if (tile_words - w < n && k + group >= depth && !goes_on)
            store_first(out_words, words, tile_words - w);
          else
            store(out_words, words);
        }
      }
    }
  }
}

/// B panels, panel_bytes apart: groups x nr words each, columns beyond width zero, groups rounded up to
/// k_step. Then, where the kernel flips s8, -128 times the sum of each column.
template <class Kernel, class Source>
inline void gemm_pack_b(const gemm_slice<Source>& s, char* out, index panel_bytes) {
  using element = typename Kernel::element;
  constexpr int n = vf_size, nr = Kernel::nr;
  const index groups = (s.depth + Kernel::k_step - 1) / Kernel::k_step * (Kernel::k_step / Kernel::k_group);
  const index width = (s.width + nr - 1) / nr * nr;
  const auto zero = [&](index g, index w, index count) {
    float* const to = reinterpret_cast<float*>(out + w / nr * panel_bytes) + g * nr + w % nr;
    for (index i = 0; i < count; ++i) store(to + i * nr, broadcast(0.0f));
  };
  if (s.k_contiguous) {
    for (index w = 0; w < width; w += n) {
      if (w >= s.width) {
        zero(0, w, groups);
        continue;
      }
      for (index g = 0; g < groups; g += n) {
        float* const to = reinterpret_cast<float*>(out + w / nr * panel_bytes) + g * nr + w % nr;
        const index rest = groups - g;
        gemm_words<element, false>(
            s, g, w, [&](const vf(&words)[n], auto whole) __attribute__((always_inline)) {
              if constexpr (whole) {
                EINKORN_UNROLL
                for (int i = 0; i < n; ++i) store(to + i * nr, words[i]);
              } else {
                for (index i = 0; i < rest && i < n; ++i) store(to + i * nr, words[i]);
              }
            });
      }
    }
  } else {
    gemm_pack_across<element>(s, width, out, panel_bytes, nr, nr * 4, false);
    const index written = (s.depth + Kernel::k_group - 1) / Kernel::k_group;
    for (index w = 0; w < width && written < groups; w += n) zero(written, w, groups - written);
  }
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

/// A block: width rows of depth elements (rounded up to k_step with zeros), `stride` bytes apart. Each row
/// has room for whole vectors. flip: 128 is added to each byte.
template <class Kernel, class Source>
inline void gemm_pack_a(const gemm_slice<Source>& s, char* out, index stride, bool flip) {
  using element = typename Kernel::element;
  constexpr int n = vf_size;
  if (s.k_contiguous) {  // one row after another: the hardware prefetcher follows
    constexpr index run = n * Kernel::k_group;
    for (index row = 0; row < s.width; ++row) {
      const Source* const from = s.data + row * s.stride;
      float* const to = reinterpret_cast<float*>(out + row * stride);
      for (index k = 0; k < s.depth; k += run) {
        const index left = s.depth - k;
        const vf words =
            left >= run ? words_along_k<element>(from + k) : words_along_k_first<element>(from + k, left);
        store(to + k / Kernel::k_group, gemm_flipped<Source>(words, flip));
      }
    }
    return;
  }
  const index groups = (s.depth + Kernel::k_group - 1) / Kernel::k_group;
  for (index g = 0; g < groups; g += n) {
    for (index w = 0; w < s.width; w += n) {
      char* const to = out + w * stride + g * 4;
      const auto put = [&](index j, vf words) __attribute__((always_inline)) {
        store(reinterpret_cast<float*>(to + j * stride), gemm_flipped<Source>(words, flip));
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
    }
  }
}

/// A panel of A. A line more, for an odd number of them: neighbouring panels fall into different sets.
constexpr index gemm_a_panel_bytes(index groups, index step) { return groups * step + 64; }

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

/// A is transposed: panels of tile_rows rows. More rows than `rows` may be read, where A has them.
template <class Kernel>
inline void gemm_pack_row_panels(const any_matrix& a, index offset, index row, index rows, index k,
                                 index depth, char* out, index panel_bytes, index tile_rows, index step) {
  const index width = a.rows - row < rows + vf_size ? a.rows - row : rows + vf_size;
  gemm_with_slice<Kernel>(a, true, offset, k, depth, row, width, [&](const auto& slice) {
    gemm_pack_across<typename Kernel::element>(slice, rows, out, panel_bytes, tile_rows, step,
                                               Kernel::flips_s8 && a.type == dtype::s8);
  });
}

template <class Kernel>
inline void gemm_pack_columns(const any_matrix& b, index offset, index col, index cols, index k, index depth,
                              char* out, index panel_bytes) {
  gemm_with_slice<Kernel>(b, false, offset, k, depth, col, cols,
                          [&](const auto& slice) { gemm_pack_b<Kernel>(slice, out, panel_bytes); });
}

EINKORN_END_LEVEL
