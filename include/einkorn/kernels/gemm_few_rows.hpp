/// GEMM with few rows of A: what counts is to read B once, at the speed of memory.
///
///   B transposed, as it lies   a column of B is a run of memory: dot products, 4 columns x up to 4 rows at a
///                              time. Lanes run along the depth, so bits differ from those of the tiles.
///   B as it lies               some rows of B at a time, from end to end, added to sums in L1. The order of
///                              sums is the tiles', whose walk down a panel would open a page a row.
///   B packed                   4 panels at a time: one panel for one row would wait for its own sums. The
///                              order of sums is the tiles'.
#pragma once

#include "gemm_words.hpp"

EINKORN_BEGIN_LEVEL

inline constexpr index gemm_dot_rows = 16, gemm_wide_rows = 3, gemm_wide_panels = 4;

/// sums(row, col) = A(row, :) B(:, col) for Rows rows of k-groups and up to 4 columns, `stride` elements
/// apart.
template <class Instruction, int Rows, class Source>
inline void gemm_dots(index depth, const char* a, index a_stride, const Source* b, index stride, index cols,
                      typename Instruction::accumulator* sums, index sums_stride) {
  using element = typename Instruction::element;
  using vector = typename Instruction::vector;
  constexpr int group = 4 / static_cast<int>(sizeof(element)), run = Instruction::lanes * group;
  constexpr int sets = Rows == 1 ? 2 : 1;  // of sums: four alone would wait for each other
  // 1 KiB ahead: the start of the next column, near the end of this one. Slower by a tenth on AVX2 (Zen 3).
  constexpr bool prefetches = EINKORN_LEVEL_AT_LEAST_AVX512_VNNI;
  const Source* const columns[4] = {b, b + (cols > 1) * stride, b + (cols > 2) * 2 * stride,
                                    b + (cols > 3) * 3 * stride};  // without one: the first one again
  vector acc[sets][Rows][4];
  EINKORN_UNROLL
  for (int i = 0; i < sets * Rows * 4; ++i) acc[i / (4 * Rows)][i / 4 % Rows][i % 4] = Instruction::zero();
  const auto step = [&](index k, auto& sum, const auto& words) __attribute__((always_inline)) {
    typename Instruction::group a_groups[Rows];
    EINKORN_UNROLL
    for (int r = 0; r < Rows; ++r) a_groups[r] = Instruction::load_groups(a + r * a_stride + k / group * 4);
    EINKORN_UNROLL
    for (int c = 0; c < 4; ++c) {
      const auto b_group = Instruction::as_groups(words(columns[c] + k));
      EINKORN_UNROLL
      for (int r = 0; r < Rows; ++r) sum[r][c] = Instruction::multiply_add(sum[r][c], a_groups[r], b_group);
    }
  };
  const auto whole = [](const Source* p) { return words_along_k<element>(p); };
  index k = 0;
  for (; k + sets * run <= depth; k += sets * run) {
    EINKORN_UNROLL
    for (int set = 0; set < sets; ++set) {
      EINKORN_UNROLL
      for (int c = 0; prefetches && c < 4; ++c)
        __builtin_prefetch(reinterpret_cast<const char*>(columns[c] + k + set * run) + 1024);
      step(k + set * run, acc[set], whole);
    }
  }
  if (sets > 1 && k + run <= depth) {
    step(k, acc[0], whole);
    k += run;
  }
  if (k < depth)
    step(k, acc[sets - 1], [&](const Source* p) { return words_along_k_first<element>(p, depth - k); });
  EINKORN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    EINKORN_UNROLL
    for (int c = 0; c < 4; ++c) {  // known places: the sums never leave their registers
      const vector v = sets == 1 ? acc[0][r][c] : Instruction::add(acc[0][r][c], acc[sets - 1][r][c]);
      const auto total = Instruction::sum(v);
      if (c < cols) sums[r * sums_stride + c] = total;
    }
  }
}

/// One row of 4 panels of packed B, or the sums so far continued; Rows x 8 vectors.
template <class Instruction, int Rows>
inline void gemm_wide_tile(const gemm_tile_args<typename Instruction::accumulator>& t, index panel_bytes) {
  constexpr int lanes = Instruction::lanes, panels = gemm_wide_panels;
  using vector = typename Instruction::vector;
  vector acc[Rows][2 * panels];
  EINKORN_UNROLL
  for (int v = 0; v < 2 * panels; ++v) {
    EINKORN_UNROLL
    for (int r = 0; r < Rows; ++r) acc[r][v] = Instruction::zero();
  }
  const char* b[panels];
  for (index p = 0; p < panels; ++p) b[p] = t.b + p * panel_bytes;
  for (index g = 0; g < t.groups; ++g) {
    EINKORN_UNROLL
    for (int p = 0; p < panels; ++p) {
      if constexpr (lanes > 8) {  // not below AVX-512: 7 % from L3, 35 % from L2 (Zen 3)
        __builtin_prefetch(b[p] + g * t.b_stride + 1024);
        __builtin_prefetch(b[p] + g * t.b_stride + 1024 + lanes * 4);
      }
      EINKORN_UNROLL
      for (int half = 0; half < 2; ++half) {
        const auto b_group = Instruction::load_groups(b[p] + g * t.b_stride + half * lanes * 4);
        EINKORN_UNROLL
        for (int r = 0; r < Rows; ++r)
          acc[r][2 * p + half] = Instruction::multiply_add(
              acc[r][2 * p + half], Instruction::broadcast(t.a + r * t.a_stride + g * t.a_step), b_group);
      }
    }
  }
  EINKORN_UNROLL
  for (int v = 0; v < 2 * panels; ++v) {
    EINKORN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      auto* const out = t.acc + r * t.acc_stride + v * lanes;
      const vector start =
          t.initial == nullptr
              ? Instruction::zero()
              : Instruction::load(reinterpret_cast<const typename Instruction::accumulator*>(
                                      reinterpret_cast<const char*>(t.initial) + v / 2 * panel_bytes) +
                                  v % 2 * lanes);
      vector sum = t.initial == nullptr ? acc[r][v] : Instruction::add(start, acc[r][v]);
      if (t.accumulate) sum = Instruction::add(sum, Instruction::load(out));
      Instruction::store(out, sum);
    }
  }
}

/// The same for any number of rows, as many at a time as registers hold their sums (4 columns each): the
/// columns are in L1 for the later ones.
template <class Instruction, class Source>
inline void gemm_dot_columns(index rows, index depth, const char* a, index a_stride, const Source* b,
                             index stride, index cols, typename Instruction::accumulator* sums,
                             index sums_stride) {
  constexpr int most = EINKORN_LEVEL_AT_LEAST_AVX512_VNNI ? 4 : 3;
  for (index c = 0; c < cols; c += 4) {
    const index count = cols - c < 4 ? cols - c : 4;
    for (index r = 0; r < rows;) {
      const index rest = rows - r, at_once = rest == most + 1 ? 2 : rest < most ? rest : most;
      const auto dots = at_once == 1   ? &gemm_dots<Instruction, 1, Source>
                        : at_once == 2 ? &gemm_dots<Instruction, 2, Source>
                        : at_once == 3 ? &gemm_dots<Instruction, 3, Source>
                                       : &gemm_dots<Instruction, most, Source>;
      dots(depth, a + r * a_stride, a_stride, b + c * stride, stride, count, sums + r * sums_stride + c,
           sums_stride);
      r += at_once;
    }
  }
}

/// sums(row, col) += A(row, :) B(:, col) for Rows rows of k-groups and `Steps` k-groups of B, rows of which
/// are `stride` elements apart; `last`: the rows of the last k-group. sums has whole vectors.
template <class Instruction, int Rows, int Steps, class Source>
inline void gemm_add_rows(const char* a, index a_stride, const Source* b, index stride, index last,
                          index cols, typename Instruction::accumulator* sums, index sums_stride) {
  using element = typename Instruction::element;
  constexpr int lanes = Instruction::lanes, group = 4 / static_cast<int>(sizeof(element));
  typename Instruction::group a_groups[Rows][Steps];
  for (int r = 0; r < Rows; ++r)
    for (int s = 0; s < Steps; ++s) a_groups[r][s] = Instruction::broadcast(a + r * a_stride + s * 4);
  const auto column = [&](index c, const auto& words) __attribute__((always_inline)) {
    typename Instruction::vector acc[Rows];
    EINKORN_UNROLL
    for (int r = 0; r < Rows; ++r) acc[r] = Instruction::load(sums + r * sums_stride + c);
    EINKORN_UNROLL
    for (int s = 0; s < Steps; ++s) {
      const auto b_group = Instruction::as_groups(words(b + s * group * stride + c, s));
      EINKORN_UNROLL
      for (int r = 0; r < Rows; ++r) acc[r] = Instruction::multiply_add(acc[r], a_groups[r][s], b_group);
    }
    EINKORN_UNROLL
    for (int r = 0; r < Rows; ++r) Instruction::store(sums + r * sums_stride + c, acc[r]);
  };
  index c = 0;
  if (last == group)
    for (; c + lanes <= cols; c += lanes)
      column(c, [&](const Source* p, int) { return words_across<element>(p, stride); });
  for (; c < cols; c += lanes)
    column(c, [&](const Source* p, int s) {
      return words_across_first<element>(p, stride, s + 1 == Steps ? last : group,
                                         cols - c < lanes ? cols - c : lanes);
    });
}

/// sums(row, col) = A(row, :) B(:, col), up to 4 rows; block after block of depth, each from zero, like the
/// tiles'. block_sums: as large as sums.
template <class Instruction, class Source>
inline void gemm_sum_rows(index rows, index depth, index block_depth, const char* a, index a_stride,
                          const Source* b, index stride, index cols, typename Instruction::accumulator* sums,
                          index sums_stride, typename Instruction::accumulator* block_sums) {
  constexpr index group = 4 / static_cast<index>(sizeof(typename Instruction::element)), at_once = 4 * group;
  auto* to = sums;
  const auto add = [&](auto steps, index k, index last) {
    const auto add_rows = rows == 1   ? &gemm_add_rows<Instruction, 1, steps, Source>
                          : rows == 2 ? &gemm_add_rows<Instruction, 2, steps, Source>
                          : rows == 3 ? &gemm_add_rows<Instruction, 3, steps, Source>
                                      : &gemm_add_rows<Instruction, 4, steps, Source>;
    add_rows(a + k / group * 4, a_stride, b + k * stride, stride, last, cols, to, sums_stride);
  };
  for (index k = 0; k < depth;) {
    const index end = depth - k < block_depth ? depth : k + block_depth;
    __builtin_memset(to, 0, static_cast<std::size_t>(rows * sums_stride) * sizeof *to);
    for (; k + at_once <= end; k += at_once) add(std::integral_constant<int, 4>(), k, group);
    for (; k < end; k += group) add(std::integral_constant<int, 1>(), k, end - k < group ? end - k : group);
    if (to == block_sums) {
      for (index i = 0; i < rows * sums_stride; i += Instruction::lanes)
        Instruction::store(sums + i,
                           Instruction::add(Instruction::load(to + i), Instruction::load(sums + i)));
    }
    to = block_sums;
  }
}

template <class Instruction>
inline void gemm_wide(index rows, const gemm_tile_args<typename Instruction::accumulator>& t,
                      index panel_bytes) {
  if (rows == 1) return gemm_wide_tile<Instruction, 1>(t, panel_bytes);
  if (rows == 2) return gemm_wide_tile<Instruction, 2>(t, panel_bytes);
  gemm_wide_tile<Instruction, 3>(t, panel_bytes);
}

EINKORN_END_LEVEL
