/// How a GEMM is cut: depth blocks, tasks, scratch memory.
#pragma once

#include <algorithm>

#include "../detail/gemm_args.hpp"
#include "gemm_pack.hpp"
#include "parallel.hpp"

EINKORN_BEGIN_LEVEL

enum class gemm_b { packed, shared, own };

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
struct gemm_plan {
  static constexpr index mr = Kernel::mr, nr = Kernel::nr;

  index depth = 0, blocks = 1, block_depth = 0;
  index task_rows = 0, task_cols = 0, chunk_cols = 0, workers = 1;
  gemm_b b_mode = gemm_b::packed;
  bool a_in_place = false, b_in_place = false;
  bool rows_outside = false;  // rows of C are finished one after another: panels of B stay in L2
  bool direct = false;        // the micro-kernel writes C itself
  index a_stride = 0, a_bytes = 0, b_bytes = 0, worker_bytes = 0, shared_bytes = 0;

  gemm_plan() = default;
  explicit gemm_plan(const detail::gemm_args& g) {
    set_depth(g.a.cols);
    set_tasks(g);
    set_memory(g);
  }

  /// Blocks of equal depth, at most 512 k-groups: a panel of B (64 KiB with 32 columns) then stays near while
  /// the rows of the task pass by. A function of the depth alone: it fixes the order of summation.
  void set_depth(index k) {
    constexpr index most = 512 * Kernel::k_group, unit = 16 * Kernel::k_group;
    depth = k;
    const index wanted = std::max<index>(1, (k + most - 1) / most);
    block_depth = round_up(std::max<index>(1, (k + wanted - 1) / wanted), unit);
    blocks = std::max<index>(1, (k + block_depth - 1) / block_depth);
  }

  /// k-groups of a packed depth block, padding included.
  index groups(index block) const {
    return round_up(std::min(block_depth, depth - block * block_depth), Kernel::k_step) / Kernel::k_group;
  }
  index panel_bytes(index block) const { return groups(block) * nr * 4 + (Kernel::flips_s8 ? nr * 4 : 0); }
  static index panel_count(index cols) { return (cols + nr - 1) / nr; }
  index packed_bytes(index cols) const {
    return panel_count(cols) * ((blocks - 1) * panel_bytes(0) + panel_bytes(blocks - 1));
  }
  static index round_up(index value, index unit) { return (value + unit - 1) / unit * unit; }

 private:
  void set_tasks(const detail::gemm_args& g) {
    const index rows = g.c.rows, cols = g.c.cols, row_bytes = groups(0) * 4;
    // Rows of A, one depth block deep, take a quarter of L2; panels of B stream past them.
    const index most_rows =
        std::clamp(g.machine.l2 / 4 / std::max<index>(row_bytes, 64) / mr * mr, mr, 512 / mr * mr);
    const index row_tasks = (rows + most_rows - 1) / most_rows;
    task_rows = row_tasks == 1 ? rows : round_up((rows + row_tasks - 1) / row_tasks, mr);
    b_mode = g.packed != nullptr ? gemm_b::packed : row_tasks == 1 ? gemm_b::own : gemm_b::shared;
    chunk_cols = round_up(cols, nr);
    if (b_mode == gemm_b::shared)
      chunk_cols = std::min(chunk_cols, std::max<index>(1, (16 << 20) / packed_bytes(nr)) * nr);
    task_cols = chunk_cols;
    const bool worth_threads =
        static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(depth * g.batch) >= 1e6;
    workers = g.exec.run != nullptr && worth_threads ? std::max(g.exec.threads, 1) : 1;
    const index tasks = (b_mode == gemm_b::shared ? 1 : g.batch) * row_tasks;
    if (workers > 1 && tasks < 4 * workers) {
      const index parts = std::min(panel_count(chunk_cols), (4 * workers + tasks - 1) / tasks);
      task_cols = round_up((chunk_cols + parts - 1) / parts, nr);
    }
    direct = is_direct(g);
    if (blocks > 1 && !direct)  // the sums of a task stay in L2 from block to block
      task_cols = std::min(task_cols, std::max<index>(1, g.machine.l2 / 2 / (task_rows * nr * 4)) * nr);
  }

  static bool is_direct(const detail::gemm_args& g) {
    const epilogue& e = g.e;
    if constexpr (std::is_same_v<typename Kernel::accumulator, std::int32_t>) return g.c.type == dtype::i32;
    return g.c.type == dtype::f32 && e.alpha == 1 && (e.beta == 0 || e.beta == 1) && e.bias == nullptr &&
           e.act == activation::none && e.preactivation.data == nullptr && e.residual.data == nullptr;
  }

  void set_memory(const detail::gemm_args& g) {
    a_in_place = !g.a.transposed && gemm_reads<Kernel>(g.a.type) && depth % Kernel::k_step == 0;
    b_in_place = b_mode == gemm_b::own && !g.b.transposed &&
                 std::is_same_v<typename Kernel::element, float> && g.b.type == dtype::f32 &&
                 g.c.rows <= 2 * mr;
    // Whole vectors, and an odd number of cache lines, so that neighbouring rows fall into different sets.
    a_stride = (groups(0) * 4 + 63) / 64 * 64;
    if (a_stride / 64 % 2 == 0) a_stride += 64;
    a_bytes = a_in_place ? 0 : task_rows * a_stride;
    const index block_bytes = panel_count(task_cols) * panel_bytes(0);
    rows_outside = block_bytes <= g.machine.l2 / 2 && task_rows > mr;
    b_bytes = b_mode == gemm_b::own ? round_up(rows_outside ? block_bytes : panel_bytes(0), 64) : 0;
    const index tiles = blocks > 1 ? panel_count(task_cols) * ((task_rows + mr - 1) / mr) : 1;
    worker_bytes = round_up(a_bytes + b_bytes + tiles * mr * nr * 4, 64);
    shared_bytes = b_mode == gemm_b::shared ? round_up(packed_bytes(chunk_cols), 64) : 0;
  }
};

/// Panels of columns [col, col + cols) of B, all depth blocks: [block][panel]. Eight panels are a task.
template <class Kernel>
inline void gemm_pack_panels(const any_matrix& b, index offset, const gemm_plan<Kernel>& plan, index col,
                             index cols, char* out, const executor& exec) {
  const index panels = plan.panel_count(cols), parts = (panels + 7) / 8;
  parallel_for(exec, plan.blocks * parts, [&](index task) {
    const index block = task / parts, panel = task % parts * 8, k = block * plan.block_depth;
    gemm_pack_columns<Kernel>(b, offset, col + panel * Kernel::nr,
                              std::min<index>(8 * Kernel::nr, cols - panel * Kernel::nr), k,
                              std::min(plan.block_depth, plan.depth - k),
                              out + block * panels * plan.panel_bytes(0) + panel * plan.panel_bytes(block),
                              plan.panel_bytes(block));
  });
}

EINKORN_END_LEVEL
