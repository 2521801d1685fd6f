/// How a GEMM is cut: depth blocks, tasks, and where each operand is read from.
#pragma once

#include <algorithm>

#include "../detail/gemm_args.hpp"
#include "gemm_few_rows.hpp"
#include "gemm_pack.hpp"
#include "parallel.hpp"

EINKORN_BEGIN_LEVEL

enum class gemm_b {
  packed,    // panels that pack() made
  shared,    // panels that all threads make first
  own,       // panels that a task makes for itself, where it first uses them
  in_place,  // rows of B as they lie, where the micro-kernel can read them
  dots,      // columns of B as they lie, for few rows: gemm_few_rows.hpp
  rows       // rows of B as they lie, for few rows
};
enum class gemm_a {
  in_place,  // rows of k-groups as they lie
  rows,      // copied, converted or transposed to such rows
  panels     // groups of mr rows beside each other: what a transposed A gives without a transposition
};

/// Whether A of this type is what the micro-kernel reads.
template <class Kernel>
constexpr bool gemm_reads(dtype a) {
  using element = typename Kernel::element;
  if constexpr (std::is_same_v<element, std::int16_t>)
    return false;
  else if constexpr (std::is_same_v<element, std::int8_t>)
    return a == dtype::u8 || !Kernel::flips_s8;
  else
    return a == dtype_of<element>;
}

template <class Kernel>
struct gemm_blocking {
  static constexpr index mr = Kernel::mr, nr = Kernel::nr;

  index depth = 0, blocks = 1, block_depth = 0;
  index task_rows = 0, task_cols = 0, chunk_cols = 0, own_cols = 0, workers = 1;
  index tile_rows = 0;  // mr, or less where the last tile would have few: those wait for their own sums
  index pass_rows = 0;  // of A, packed together
  gemm_b b = gemm_b::packed;
  gemm_a a = gemm_a::in_place;
  bool direct = false;     // the micro-kernel writes C itself, in f32 or i32
  bool converts = false;   // the same, rounded to the type of C
  bool sums_stay = false;  // in scratch memory from block to block, where C itself cannot hold them
  bool split = false;      // between threads by depth: a block is a task
  bool by_block = false;   // B is shared one block of depth at a time
  bool prefetches_a = false;
  index b_share = 0;     // bytes of the next panels of B that a tile fetches
  bool near = false;     // gemm_near.hpp
  bool simple = false;   // one task, and nothing else to work out
  bool wide = false;     // packed B, 4 panels at a time
  bool keeps_b = false;  // own panels are needed again
  index a_stride = 0, a_step = 4, a_bytes = 0, b_bytes = 0, sums_bytes = 0, worker_bytes = 0,
        shared_bytes = 0, parts_bytes = 0;

  gemm_blocking() = default;
  explicit gemm_blocking(const detail::gemm_args& g) {
    set_depth(g.a.cols);
    set_results(g);
    set_operands(g);
    if (set_simple(g)) return;
    set_tasks(g);
    set_memory(g);
  }

  /// Blocks of equal depth, at most 1024 k-groups: what C costs at the end of a tile (Zen 4: about 500 cycles
  /// where it is not in L2) is paid once a block; at 1536 a row of tiles of A no longer stays near. A
  /// function of the depth alone: it fixes the order of summation.
  void set_depth(index k) {
    constexpr index most = 1024 * Kernel::k_group, unit = std::max<index>(16 * Kernel::k_group, nr);
    depth = k;
    const index wanted = k <= most ? 1 : (k + most - 1) / most;
    block_depth =
        wanted == 1 ? round_up(std::max<index>(1, k), unit) : round_up((k + wanted - 1) / wanted, unit);
    blocks = k <= block_depth ? 1 : (k + block_depth - 1) / block_depth;
  }

  /// k-groups of a packed depth block, padding included.
  index groups(index block) const {
    return round_up(std::min(block_depth, depth - block * block_depth), Kernel::k_step) / Kernel::k_group;
  }
  index panel_bytes(index block) const { return groups(block) * nr * 4 + (Kernel::flips_s8 ? nr * 4 : 0); }
  static index panel_count(index cols) { return (cols + nr - 1) / nr; }
  /// Whether no vector of a row is incomplete, or the kernel masks those that are.
  static bool whole_vectors(index cols) { return Kernel::masks || cols % Kernel::lanes == 0; }
  index packed_bytes(index cols) const {
    return panel_count(cols) * ((blocks - 1) * panel_bytes(0) + panel_bytes(blocks - 1));
  }
  index scratch_bytes() const { return shared_bytes + workers * worker_bytes + parts_bytes; }
  static constexpr index round_up(index value, index unit) { return (value + unit - 1) / unit * unit; }

 private:
  void set_results(const detail::gemm_args& g) {
    const epilogue& e = g.e;
    wide = g.packed != nullptr && g.c.rows <= gemm_wide_rows && Kernel::a_panels;
    const bool bias_in_tile = Kernel::converts && blocks == 1 && e.beta == 0 && !wide;
    const bool plain = e.alpha == 1 && (e.bias == nullptr || bias_in_tile) && e.act == activation::none &&
                       e.preactivation.data == nullptr && e.residual.data == nullptr;
    constexpr bool integers = std::is_same_v<typename Kernel::accumulator, std::int32_t>;
    direct =
        integers ? g.c.type == dtype::i32 : g.c.type == dtype::f32 && plain && (e.beta == 0 || e.beta == 1);
    sums_stay = blocks > 1 && !(direct && whole_vectors(g.c.cols));
    converts = Kernel::converts && g.c.type != dtype::f32 && plain && e.beta == 0 && blocks == 1;
  }

  /// At this stride all rows fall into one set of L1 (A of 4608 x 768 x 3072 of f32 loses a quarter, B of
  /// 24 x 1024 x 1024 as it lies as much).
  static bool rows_collide(const any_matrix& m) {
    return m.rows > 4 && m.stride * size_of(m.type) % 4096 == 0;
  }

  /// Where the operands are read from; of a B that tasks pack set_tasks decides who packs it.
  void set_operands(const detail::gemm_args& g) {
    const index rows = g.c.rows, cols = g.c.cols;
    constexpr index run = vf_size * Kernel::k_group;  // depth of a vector
    const bool reads_a = gemm_reads<Kernel>(g.a.type);
    a = g.a.transposed && Kernel::a_panels                                               ? gemm_a::panels
        : g.a.transposed || !reads_a || depth % Kernel::k_step != 0 || rows_collide(g.a) ? gemm_a::rows
                                                                                         : gemm_a::in_place;
    const bool worth_threads =
        static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(depth * g.batch) >= 1e6;
    workers = g.exec.run != nullptr && worth_threads ? std::max(g.exec.threads, 1) : 1;
    if (g.packed != nullptr) {
      b = gemm_b::packed;
    } else if (g.b.transposed && rows <= gemm_dot_rows && 2 * depth >= run * rows &&
               !std::is_void_v<typename Kernel::instruction>) {
      b = gemm_b::dots;
      a = g.a.transposed || !reads_a || depth % run != 0 ? gemm_a::rows : gemm_a::in_place;
    } else if (!g.b.transposed && rows <= gemm_wide_rows && depth >= 16 &&
               !(direct && blocks > 1 && g.e.beta != 0) &&  // C itself takes part in the order of the sums
               !std::is_void_v<typename Kernel::instruction>) {
      b = gemm_b::rows;
      if (a == gemm_a::panels) a = gemm_a::rows;
    } else if (!g.b.transposed && std::is_same_v<typename Kernel::element, float> && g.b.type == dtype::f32 &&
               (rows <= (Kernel::masks ? 2 : 4) * mr || cols * depth * 4 <= g.machine.l2 / 4) &&
               !(rows > 2 * mr && rows_collide(g.b))) {
      b = gemm_b::in_place;
    } else {
      b = gemm_b::own;
    }
  }

  /// A in place, and a small product or (one of many) with a B that each task packs and a result that is
  /// stored as it is. AMX: small, with every operand as it wants it.
  bool set_simple(const detail::gemm_args& g) {
    const index rows = g.c.rows, cols = g.c.cols;
    if (blocks != 1 || a != gemm_a::in_place || wide) return false;
    const bool small = workers == 1 && g.batch == 1 && rows * cols * depth <= (1 << 21);
    const bool stored = direct && g.e.bias == nullptr && whole_vectors(cols);
    if constexpr (Kernel::a_panels)
      near = b == gemm_b::own      ? small || (stored && panel_bytes(0) <= g.machine.l1 / 2 &&
                                          rows * groups(0) * 4 <= g.machine.l2 / 4)
             : b == gemm_b::packed ? small && (!Kernel::flips_s8 || g.a.type != dtype::s8)
                                   : small && b == gemm_b::in_place;
    simple = small && (Kernel::a_panels ? near : b == gemm_b::packed && stored);
    if (!simple) return false;
    set_tile_rows(rows);
    a_stride = g.a.stride * size_of(g.a.type);
    const bool packs = b == gemm_b::own || (b == gemm_b::in_place && !whole_vectors(cols));
    worker_bytes = packs ? panel_bytes(0) : 0;
    return true;
  }

  /// Tiles of about equal height; returns how many.
  index set_tile_rows(index rows) {
    const index tiles = std::max<index>(1, (rows + mr - 1) / mr);
    tile_rows = !Kernel::a_panels ? mr : tiles == 1 ? std::max<index>(1, rows) : (rows + tiles - 1) / tiles;
    return tiles;
  }

  void set_tasks(const detail::gemm_args& g) {
    const index rows = g.c.rows, cols = g.c.cols, one_panel = std::max<index>(64, panel_bytes(0));
    // Panels that a task packs for itself stay in its L2, and A passes by once for each such run of columns.
    const index near_panels = std::max<index>(1, g.machine.l2 / 2 / one_panel);
    const index most_rows = std::max(mr, g.machine.l2 / 4 / std::max<index>(groups(0) * 4, 64) / mr * mr);
    // A tile of AVX2 takes 11 bytes a cycle of B, too much from L3: all rows of A, as they lie, pass by the
    // panels that L2 holds. 1 to 4 % on Zen 3; not measured with AVX-512.
    const bool sweeps = Kernel::lanes <= 8 && a == gemm_a::in_place && blocks == 1;
    // A that stays in L2, or a B that does as a whole; or each task has its share of columns.
    const bool fits = rows <= most_rows || (panel_count(cols) <= near_panels && g.batch > 1) ||
                      (sweeps && panel_count(cols) >= 16 * workers);
    if (b == gemm_b::own && !fits) b = gemm_b::shared;
    near = near && b == gemm_b::own;
    chunk_cols = round_up(cols, nr);
    if (b == gemm_b::shared) {
      const auto fitting = [&](index bytes) { return std::max<index>(1, (16 << 20) / bytes) * nr; };
      // More than stays in L3 beside what else passes through it: 2 to 4 % on Zen 3, more with two threads.
      const index all_bytes = panel_count(cols) * one_panel * blocks;
      by_block = blocks > 1 && direct && whole_vectors(cols) &&
                 all_bytes > std::max(g.machine.l2, g.machine.l3 / 8) &&
                 (rows + mr - 1) / mr * panel_count(cols) >= 4 * workers;
      chunk_cols = std::min(chunk_cols, fitting(by_block ? one_panel : one_panel * blocks));
    }
    task_cols = chunk_cols;
    task_rows = rows;
    const index batches = b == gemm_b::shared ? 1 : g.batch;
    if (b == gemm_b::packed || b == gemm_b::shared) {
      // All rows of a task read all its panels of a block, from L3 where L2 does not hold them.
      const index most_bytes = std::max(g.machine.l2 / 2, g.machine.l3 / (by_block ? 2 : 8));
      task_cols = std::min(task_cols, std::max<index>(1, most_bytes / one_panel) * nr);
      // Fewer tiles of rows than tasks, or little more while A stays near: tasks are columns then, and B is
      // read once. 16 and 32 rows of the layers of BERT-base, two threads of Zen 3: 1.5 and 1.25 times as
      // fast, int8 1.1 with 8 and 16; 128 rows of bf16, Zen 4: 1.03.
      const bool few_rows =
          rows <= 4 * workers * mr || (rows <= 16 * workers * mr && rows * groups(0) * 4 <= g.machine.l2 / 4);
      const bool by_cols =
          b == gemm_b::packed && batches == 1 && few_rows && panel_count(cols) >= 4 * workers;
      // Small tasks, so that the threads end together though one may be slower; a transposed A is packed best
      // many tiles together, and a sweep wants all rows.
      const index tiles = (rows + mr - 1) / mr,
                  parts = sweeps ? 4 * workers : tiles / (a == gemm_a::panels ? 8 : 2);
      const index fine = std::clamp(parts, 4 * workers, 64 * workers);
      index wanted = workers > 1 && !by_cols ? (fine + batches - 1) / batches : 1;
      if (sums_stay) wanted = std::max(wanted, rows * task_cols * 4 / (most_bytes / 2) + 1);
      const index row_tasks = std::min(tiles, wanted);
      task_rows = row_tasks <= 1 ? rows : round_up((rows + row_tasks - 1) / row_tasks, mr);
    }
    const index tasks = batches * ((rows + task_rows - 1) / std::max<index>(task_rows, 1)) *
                        ((chunk_cols + task_cols - 1) / std::max<index>(task_cols, 1));
    if (workers > 1 && tasks < 4 * workers) {
      const index parts = std::min(panel_count(task_cols), (4 * workers + tasks - 1) / tasks);
      task_cols = round_up((task_cols + parts - 1) / parts, nr);
    }
    if (b == gemm_b::dots) task_cols = std::min<index>(task_cols, round_up(256, nr));
    if (b == gemm_b::rows) task_cols = std::min<index>(task_cols, round_up(8192, nr));
    own_cols = task_cols;
    if (b == gemm_b::own || (sweeps && (b == gemm_b::packed || b == gemm_b::shared))) {
      const index parts = (panel_count(task_cols) + near_panels - 1) / near_panels;
      own_cols = (panel_count(task_cols) + parts - 1) / parts * nr;
    }
    // A transposed A is read 64 bytes a page with one row of tiles; several read whole runs of its rows.
    const index tiles = set_tile_rows(task_rows);
    pass_rows = std::min<index>(a == gemm_a::panels ? 8 : 1, tiles) * tile_rows;
    // Where few rows pass a panel of packed B, it comes from memory more often than it waits in L2.
    b_share = b == gemm_b::packed && sweeps && tiles <= 8 ? round_up(panel_bytes(0) / tiles, 64) : 0;
    keeps_b = b == gemm_b::own && task_rows > tile_rows && !near;
    const index row_tasks = (rows + task_rows - 1) / std::max<index>(task_rows, 1);
    const index col_tasks = (cols + task_cols - 1) / std::max<index>(task_cols, 1);
    const index parts = row_tasks * col_tasks * blocks;
    parts_bytes = parts * panel_count(own_cols) * round_up(task_rows, tile_rows) * nr * 4;
    split = workers > row_tasks * col_tasks && blocks > 1 && g.batch == 1 && b != gemm_b::dots &&
            b != gemm_b::rows && !by_block && chunk_cols >= cols && own_cols >= task_cols &&
            parts_bytes <= std::max(g.machine.l2, g.machine.l3 / 2);
    if (split) {
      sums_stay = true;
      wide = false;
    } else {
      parts_bytes = 0;
    }
  }

  void set_memory(const detail::gemm_args& g) {
    if (b == gemm_b::dots || b == gemm_b::rows) {  // A whole, and one more row for what flipped bytes add
      a_stride = a == gemm_a::rows ? round_up((depth + Kernel::k_group - 1) / Kernel::k_group * 4, 64)
                                   : g.a.stride * size_of(g.a.type);
      a_bytes = (a == gemm_a::rows ? g.c.rows + 1 : 0) * a_stride;
      worker_bytes = a_bytes + (b == gemm_b::rows ? 2 : 1) * (g.c.rows + 1) * round_up(own_cols, 16) * 4;
      return;
    }
    if (a == gemm_a::panels) {
      a_step = mr * 4;
      a_stride = 4;
      a_bytes = pass_rows / tile_rows * gemm_a_panel_bytes(groups(0), a_step);
    } else if (a == gemm_a::rows) {
      // Whole vectors, and an odd number of cache lines, so that neighbouring rows fall into different sets.
      a_stride = round_up(groups(0) * 4, 64);
      if (a_stride / 64 % 2 == 0) a_stride += 64;
      a_bytes = pass_rows * a_stride;
    } else {
      a_stride = g.a.stride * size_of(g.a.type);
    }
    const bool packs = b == gemm_b::own || (b == gemm_b::in_place && !whole_vectors(g.c.cols));
    const index panels = keeps_b ? panel_count(own_cols) : 1;
    b_bytes = packs ? round_up(panels * panel_bytes(0), 64) : 0;
    const bool whole = (direct || (converts && !wide)) && whole_vectors(g.c.cols);
    const index sums = sums_stay ? panel_count(own_cols) * round_up(task_rows, tile_rows)
                       : whole   ? 0
                                 : std::max<index>(mr, wide ? gemm_wide_panels * gemm_wide_rows : 0);
    sums_bytes = sums * nr * 4;
    worker_bytes = round_up(a_bytes, 64) + b_bytes + (split ? 0 : sums_bytes);
    a_bytes = round_up(a_bytes, 64);
    shared_bytes = b != gemm_b::shared ? 0
                   : by_block          ? round_up(panel_count(chunk_cols) * panel_bytes(0), 64)
                                       : round_up(packed_bytes(chunk_cols), 64);
    prefetches_a = b_share == 0 && a == gemm_a::in_place && blocks == 1 && panel_count(own_cols) <= 8 &&
                   a_stride == depth * size_of(g.a.type);
  }
};

/// Panels of columns [col, col + cols) of B, depth blocks [first, end): [block][panel]. A task is what lies
/// together in memory: eight panels of columns, or whole rows of a row-major B.
template <class Kernel>
inline void gemm_pack_panels(const any_matrix& b, index offset, const gemm_blocking<Kernel>& blocking,
                             index first, index end, index col, index cols, char* out, const executor& exec) {
  const index panels = blocking.panel_count(cols);
  const bool by_rows = !b.transposed && !Kernel::flips_s8;  // flipping sums whole columns
  const index task_cols = by_rows ? std::max<index>(1, cols) : 8 * Kernel::nr;
  const index task_depth = by_rows ? 32 * Kernel::k_group : blocking.block_depth;  // a multiple of k_step
  const index col_parts = (cols + task_cols - 1) / task_cols;
  const index depth_parts = (blocking.block_depth + task_depth - 1) / task_depth;
  parallel_for(exec, (end - first) * depth_parts * col_parts, [&](index task) {
    const index block = first + task / (depth_parts * col_parts), part = task % (depth_parts * col_parts);
    const index w = part % col_parts * task_cols, k = part / col_parts * task_depth;
    const index depth =
        std::min({task_depth, blocking.block_depth - k, blocking.depth - block * blocking.block_depth - k});
    if (k > 0 && depth <= 0) return;  // the last block is less deep
    gemm_pack_columns<Kernel>(
        b, offset, col + w, std::min(task_cols, cols - w), block * blocking.block_depth + k, depth,
        out + (block - first) * panels * blocking.panel_bytes(0) +
            w / Kernel::nr * blocking.panel_bytes(block) + k / Kernel::k_group * Kernel::nr * 4,
        blocking.panel_bytes(block));
  });
}

/// weight as B (`backward`) and transposed as B (`forward`), by squares of it that stay in L2 for both.
template <class Kernel>
inline void gemm_pack_both(const any_matrix& weight, const gemm_blocking<Kernel>& forward,
                           const gemm_blocking<Kernel>& backward, char* forward_out, char* backward_out,
                           const executor& exec) {
  constexpr index nr = Kernel::nr, side = 128;  // a multiple of nr and of k_step
  any_matrix transposed = weight;
  std::swap(transposed.rows, transposed.cols);
  transposed.transposed = !weight.transposed;
  // The part of panels [col, col + cols) that lies in depth [k, k + count), which may cross into the next
  // block.
  const auto pack = [](const any_matrix& b, const gemm_blocking<Kernel>& cut, index k, index count, index col,
                       index cols, char* out) {
    const index panels = cut.panel_count(b.cols);
    for (const index end = k + count; k < end;) {
      const index block = k / cut.block_depth, first = block * cut.block_depth;
      const index depth = std::min(end, first + cut.block_depth) - k, bytes = cut.panel_bytes(block);
      gemm_pack_columns<Kernel>(b, 0, col, cols, k, depth,
                                out + block * panels * cut.panel_bytes(0) + col / nr * bytes +
                                    (k - first) / Kernel::k_group * nr * 4,
                                bytes);
      k += depth;
    }
  };
  const index row_squares = (weight.rows + side - 1) / side, col_squares = (weight.cols + side - 1) / side;
  parallel_for(exec, row_squares * col_squares, [&](index task) {
    const index row = task / col_squares * side, col = task % col_squares * side;
    const index rows = std::min(side, weight.rows - row), cols = std::min(side, weight.cols - col);
    pack(transposed, forward, col, cols, row, rows, forward_out);
    pack(weight, backward, row, rows, col, cols, backward_out);
  });
}

EINKORN_END_LEVEL
