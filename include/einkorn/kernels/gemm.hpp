/// The blocked GEMM driver, templated on a micro-kernel.
///
/// C is cut into tasks of rows x columns. For each block of depth, a task takes A as rows of k-groups (in
/// place where A lies in memory like that, else copied, converted, transposed into its scratch memory) and B
/// as panels of nr columns, and calls the micro-kernel for mr x nr tiles of C:
///
///   shared B   (many row blocks): all panels are packed first, in parallel: [depth block][panel][group][nr]
///   private B  (all rows in one task): each panel is packed where it is used, and is in L1 then
///   packed B   (pack()): as shared, done once by the caller
///
/// The depth blocks depend on the depth only; rows, columns and tasks may depend on caches and threads, since
/// every element is summed in the same order wherever its tile begins: block by block, from zero in each.
///
/// A micro-kernel is a struct with
///   element               of packed A and B; accumulator: float or std::int32_t
///   mr, nr, lanes         the tile; C is stored in whole vectors of `lanes`
///   k_group, k_step       elements that B interleaves per column (4 bytes); depth of packed operands is
///                         rounded up to k_step with zeros
///   flips_s8              A of s8 comes with 128 added, and panels of B end with nr compensations
///   session               constructed in every worker before its first tile (tile configuration)
///   run(rows, cols, t)    acc(rows, cols) [+]= A B, see gemm_tile_args; rows <= mr, cols <= nr; may write
///                         up to the next multiple of `lanes` columns
/// gemm_amx.hpp reads A at any a_stride, and depths of any number of k-groups.
#pragma once

#include <algorithm>

#include "gemm_amx.hpp"
#include "gemm_avx2.hpp"
#include "gemm_avx512.hpp"
#include "gemm_baseline.hpp"
#include "gemm_epilogue.hpp"
#include "gemm_pack.hpp"
#include "gemm_plan.hpp"
#include "parallel.hpp"

EINKORN_BEGIN_LEVEL

template <class Kernel>
class gemm_driver {
 public:
  using accumulator = typename Kernel::accumulator;

  explicit gemm_driver(const detail::gemm_args& args)
      : g(args), plan(args), exec(plan.workers > 1 ? args.exec : serial_executor()) {}

  void run() {
    char* const memory = static_cast<char*>(
        g.scratch(g.scratch_context, plan.shared_bytes + plan.workers * plan.worker_bytes));
    if (memory == nullptr) return;
    char* const workers = memory + plan.shared_bytes;
    if (plan.b_mode != gemm_b::shared) {
      run_tasks(workers, 0, g.batch, 0, g.c.cols, static_cast<const char*>(g.packed));
      return;
    }
    for (index batch = 0; batch < g.batch; ++batch) {
      for (index col = 0; col < g.c.cols; col += plan.chunk_cols) {
        const index cols = std::min(plan.chunk_cols, g.c.cols - col);
        gemm_pack_panels(g.b, batch * g.batch_b, plan, col, cols, memory, exec);
        run_tasks(workers, batch, batch + 1, col, cols, memory);
      }
    }
  }

 private:
  const detail::gemm_args& g;
  const gemm_plan<Kernel> plan;
  const executor exec;

  /// Workers take tasks from a counter; each has scratch memory of its own.
  void run_tasks(char* scratch, index batch0, index batch1, index col0, index cols, const char* panels) {
    const index row_tasks = (g.c.rows + plan.task_rows - 1) / plan.task_rows;
    const index col_tasks = (cols + plan.task_cols - 1) / plan.task_cols;
    const index tasks = (batch1 - batch0) * row_tasks * col_tasks;
    index next = 0;
    parallel_for(exec, std::min(plan.workers, tasks), [&](index worker) {
      [[maybe_unused]] const typename Kernel::session session;
      for (;;) {
        const index task = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (task >= tasks) return;
        const index row = task / col_tasks % row_tasks * plan.task_rows;
        const index col = task % col_tasks * plan.task_cols;
        task_tile tile{batch0 + task / (row_tasks * col_tasks), row, std::min(plan.task_rows, g.c.rows - row),
                       col0 + col, std::min(plan.task_cols, cols - col)};
        multiply(tile, panels, col / Kernel::nr, plan.panel_count(cols),
                 scratch + worker * plan.worker_bytes);
      }
    });
  }

  struct task_tile {
    index batch, row, rows, col, cols;
  };

  /// One task. panels: packed B, or null; each depth block has panels_in_block, of which the task's first is
  /// first_panel.
  void multiply(const task_tile& tile, const char* panels, index first_panel, index panels_in_block,
                char* scratch) {
    char* const packed_a = scratch;
    char* const packed_b = packed_a + plan.a_bytes;
    accumulator* const sums = reinterpret_cast<accumulator*>(packed_b + plan.b_bytes);
    const bool compensate = Kernel::flips_s8 && g.a.type == dtype::s8;
    index k = 0;
    index block_offset = 0;  // in `panels`
    for (index block = 0; block < plan.blocks; ++block) {
      const index depth = std::min(plan.block_depth, g.a.cols - k);
      const bool first = block == 0, last = block + 1 == plan.blocks;
      const char* a;
      index a_stride;
      if (plan.a_in_place) {
        a = gemm_address(g.a, tile.batch * g.batch_a + tile.row * g.a.stride + k);
        a_stride = g.a.stride * size_of(g.a.type);
      } else {
        gemm_pack_rows<Kernel>(g.a, tile.batch * g.batch_a, tile.row, tile.rows, k, depth, packed_a,
                               plan.a_stride);
        a = packed_a;
        a_stride = plan.a_stride;
      }
      const index panel_bytes = plan.panel_bytes(block);
      const index row_panels = (tile.rows + Kernel::mr - 1) / Kernel::mr;
      const auto cols_of = [&](index panel) {
        return std::min(static_cast<index>(Kernel::nr), tile.cols - panel * Kernel::nr);
      };
      const auto pack = [&](index panel, index cols) {
        gemm_pack_columns<Kernel>(g.b, tile.batch * g.batch_b, tile.col + panel * Kernel::nr, cols, k, depth,
                                  packed_b, panel_bytes);
      };
      gemm_tile_args<accumulator> t;
      t.groups = plan.groups(block);
      t.a_stride = a_stride;
      const auto point_at_b = [&](const char* b) {
        t.b = b;
        t.b_stride = Kernel::nr * 4;
        t.initial =
            compensate ? reinterpret_cast<const accumulator*>(b + t.groups * Kernel::nr * 4) : nullptr;
      };
      const auto multiply_panels = [&](index panel, index row_panel) {
        const index row = row_panel * Kernel::mr, col = panel * Kernel::nr, cols = cols_of(panel);
        const index rows = std::min(static_cast<index>(Kernel::mr), tile.rows - row);
        t.a = a + row * a_stride;
        if (plan.direct && cols % Kernel::lanes == 0) {
          t.acc = static_cast<accumulator*>(g.c.data) + tile.batch * g.batch_c +
                  (tile.row + row) * g.c.stride + tile.col + col;
          t.acc_stride = g.c.stride;
          t.accumulate = !first || g.e.beta != 0;
          Kernel::run(static_cast<int>(rows), static_cast<int>(cols), t);
          return;
        }
        t.acc = sums + (plan.blocks > 1 ? (panel * row_panels + row_panel) * Kernel::mr * Kernel::nr : 0);
        t.acc_stride = Kernel::nr;
        t.accumulate = !first;
        Kernel::run(static_cast<int>(rows), static_cast<int>(cols), t);
        if (last)
          gemm_finish_tile(g, tile.batch, tile.row + row, rows, tile.col + col, cols, t.acc, t.acc_stride);
      };
      const index col_panels = plan.panel_count(tile.cols);
      const char* const ready =
          panels != nullptr ? panels + block_offset + first_panel * panel_bytes : nullptr;
      if (plan.rows_outside) {
        if (ready == nullptr) pack(0, tile.cols);
        for (index row_panel = 0; row_panel < row_panels; ++row_panel) {
          for (index panel = 0; panel < col_panels; ++panel) {
            if (plan.a_in_place && col_panels <= 8 && row_panel + 1 < row_panels) {
              // A is read few times, from memory: fetch a share of its next rows (7 % with 2 panels).
              const index next = (row_panel + 1) * Kernel::mr;
              const index rows = std::min(static_cast<index>(Kernel::mr), tile.rows - next);
              for (index r = rows * panel / col_panels; r < rows * (panel + 1) / col_panels; ++r)
                for (index byte = 0; byte < t.groups * 4; byte += 64)
                  __builtin_prefetch(a + (next + r) * a_stride + byte, 0, 2);
            }
            point_at_b((ready != nullptr ? ready : packed_b) + panel * panel_bytes);
            multiply_panels(panel, row_panel);
          }
        }
      } else {
        for (index panel = 0; panel < col_panels; ++panel) {
          if (ready != nullptr) {
            point_at_b(ready + panel * panel_bytes);
          } else if (plan.b_in_place && cols_of(panel) % Kernel::lanes == 0) {
            point_at_b(
                gemm_address(g.b, tile.batch * g.batch_b + k * g.b.stride + tile.col + panel * Kernel::nr));
            t.b_stride = g.b.stride * size_of(g.b.type);
          } else {
            pack(panel, cols_of(panel));
            point_at_b(packed_b);
          }
          for (index row_panel = 0; row_panel < row_panels; ++row_panel) multiply_panels(panel, row_panel);
        }
      }
      block_offset += panels_in_block * panel_bytes;
      k += depth;
    }
  }
};

/// body(kernel) with the micro-kernel of the types of A and B.
template <class Args, class Body>
inline void gemm_with_kernel(dtype a, [[maybe_unused]] dtype b, [[maybe_unused]] const Args& g,
                             const Body& body) {
#if EINKORN_LEVEL_AT_LEAST_AMX
  if (a == dtype::u8) return body(gemm_u8_tiles());
  if (a == dtype::s8) return body(gemm_s8_tiles());
  if (a == dtype::bf16 && b == dtype::bf16) return body(gemm_bf16_tiles());
  if (a == dtype::fp16 && b == dtype::fp16 && g.machine.fp16_tiles) return body(gemm_fp16_tiles());
#else
  if (a == dtype::u8 || a == dtype::s8) return body(gemm_int8());
#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16
  if (a == dtype::bf16 && b == dtype::bf16 && !g.machine.widen_bf16) return body(gemm_bf16());
#endif
#endif
  body(gemm_f32());  // narrow operands are widened while packing
}

inline void gemm(const detail::gemm_args& g) {
  if (g.batch == 0 || g.c.rows == 0 || g.c.cols == 0) return;
  gemm_with_kernel(g.a.type, g.b.type, g, [&](auto kernel) { gemm_driver<decltype(kernel)>(g).run(); });
}

inline void gemm_pack(const detail::gemm_pack_args& g) {
  gemm_with_kernel(g.a_type, g.b.type, g, [&](auto kernel) {
    using kernel_type = decltype(kernel);
    gemm_plan<kernel_type> plan;
    plan.set_depth(g.b.rows);
    *g.bytes = plan.packed_bytes(g.b.cols);
    if (g.out != nullptr) gemm_pack_panels(g.b, 0, plan, 0, g.b.cols, static_cast<char*>(g.out), g.exec);
  });
}

EINKORN_END_LEVEL
