/// The blocked GEMM driver, templated on a micro-kernel.
///
/// C is cut into tasks of rows x columns (gemm_blocking.hpp). For each block of depth a task takes mr rows of
/// A after another (in place, or copied, converted, transposed: they are in L1 or L2 then) past all its
/// panels of B, nr columns each, and calls the micro-kernel for one tile of C after another. B is streamed
/// from where it is, L2 or L3, 5 bytes a cycle.
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
///   a_panels, converts    it honours a_step, and narrow and bias, of gemm_tile_args; a_panels: the tiles of
///                         gemm_near.hpp are made of its instruction, too
///   session               constructed in every worker before its first tile (tile configuration)
///   masks                 B in place and C may end at any column
///   run(rows, cols, t)    acc(rows, cols) [+]= A B, see gemm_tile_args; rows <= mr, cols <= nr;
///                         without masks, up to the next multiple of `lanes` columns
/// gemm_amx.hpp reads A at any a_stride, and depths of any number of k-groups.
#pragma once

#include <algorithm>

#include "gemm_call.hpp"
#include "gemm_near.hpp"
#include "parallel.hpp"

EINKORN_BEGIN_LEVEL

template <class Kernel>
class gemm_driver : gemm_call<Kernel> {
  using base = gemm_call<Kernel>;
  using base::c_offset, base::cut, base::data, base::g, base::multiply_few_rows, base::place_b,
      base::with_data;
  using typename base::position, typename base::task_tile;

 public:
  using accumulator = typename Kernel::accumulator;
  using base::base;

  /// memory: scratch_bytes() of the blocking.
  void run(char* memory) {
    if (cut.simple) return run_simple(memory);
    if (is_single()) {
      const default_mxcsr environment;
      [[maybe_unused]] const typename Kernel::session session;
      multiply({0, 0, g.c.rows, 0, g.c.cols, 0, cut.blocks, sums_in(memory)},
               static_cast<const char*>(g.packed), 0, cut.panel_count(g.c.cols), memory);
      return;
    }
    const executor exec = cut.workers > 1 ? g.exec : serial_executor();
    char* const workers = memory + cut.shared_bytes;
    if (cut.b != gemm_b::shared) {
      run_tasks(exec, workers, {0, g.batch, 0, cut.blocks, 0, g.c.cols}, static_cast<const char*>(g.packed));
      return;
    }
    const any_matrix b = with_data(g.b, data.b);
    const index blocks = cut.by_block ? 1 : cut.blocks;
    for (index batch = 0; batch < g.batch; ++batch) {
      for (index block = 0; block < cut.blocks; block += blocks) {
        for (index col = 0; col < g.c.cols; col += cut.chunk_cols) {
          const index cols = std::min(cut.chunk_cols, g.c.cols - col);
          gemm_pack_panels(b, batch * g.batch_b, cut, block, block + blocks, col, cols, memory, exec);
          run_tasks(exec, workers, {batch, batch + 1, block, block + blocks, col, cols}, memory);
        }
      }
    }
  }

  /// A small product whose A lies as the micro-kernel wants it.
  void run_simple(char* memory) {
    const default_mxcsr environment;
    [[maybe_unused]] const typename Kernel::session session;
    const task_tile all{0, 0, g.c.rows, 0, g.c.cols, 0, 1, nullptr};
    if constexpr (Kernel::a_panels)
      multiply_near(all, static_cast<const char*>(g.packed), 0, memory);
    else
      multiply_packed(all, static_cast<const char*>(g.packed));
  }

 private:
  /// One task: no counter, no division.
  bool is_single() const {
    return cut.workers == 1 && g.batch == 1 && cut.b != gemm_b::shared && cut.task_rows >= g.c.rows &&
           cut.own_cols >= g.c.cols;
  }

  /// What one run of tasks computes: these columns of these products, from these blocks of depth.
  struct region {
    index batch, end_batch, first_block, end_block, col, cols;
  };

  /// Workers take tasks from a counter; each has scratch memory of its own. Where there are too few, each
  /// block of depth is a task of its own: its sums go to memory, and are added up afterwards in the order of
  /// the blocks. panels: B of the region, or null.
  void run_tasks(const executor& exec, char* scratch, const region& all, const char* panels) {
    const index cols = all.cols, panels_in_block = cut.panel_count(cols);
    const index row_tasks = cut.task_rows >= g.c.rows ? 1 : (g.c.rows + cut.task_rows - 1) / cut.task_rows;
    const index col_tasks = cut.task_cols >= cols ? 1 : (cols + cut.task_cols - 1) / cut.task_cols;
    const index parts = cut.split ? cut.blocks : 1;
    const index tasks = (all.end_batch - all.batch) * row_tasks * col_tasks;
    char* const parts_memory = scratch + cut.workers * cut.worker_bytes;
    const auto tile_of = [&](index task) {
      const index batch = task / (row_tasks * col_tasks), place = task - batch * row_tasks * col_tasks;
      const index row = place / col_tasks * cut.task_rows, col = place % col_tasks * cut.task_cols;
      return task_tile{all.batch + batch,
                       row,
                       std::min(cut.task_rows, g.c.rows - row),
                       all.col + col,
                       std::min(cut.task_cols, cols - col),
                       all.first_block,
                       all.end_block,
                       nullptr};
    };
    index next = 0;
    parallel_for(exec, std::min(cut.workers, tasks * parts), [&](index worker) {
      [[maybe_unused]] const typename Kernel::session session;
      char* const own = scratch + worker * cut.worker_bytes;
      for (;;) {
        const index part = cut.workers == 1 ? next++ : __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (part >= tasks * parts) return;
        task_tile tile = tile_of(part / parts);
        tile.sums = sums_in(own);
        if (cut.split) {
          tile.first_block = part % parts;
          tile.end_block = tile.first_block + 1;
          tile.sums = reinterpret_cast<accumulator*>(parts_memory + part * cut.sums_bytes);
        }
        const index end = tile.col + tile.cols;
        for (; tile.col < end; tile.col += cut.own_cols) {
          tile.cols = std::min(cut.own_cols, end - tile.col);
          multiply(tile, panels, (tile.col - all.col) / Kernel::nr, panels_in_block, own);
        }
      }
    });
    if (!cut.split) return;
    parallel_for(exec, std::min(cut.workers, tasks), [&](index worker) {
      for (index task = worker; task < tasks; task += std::min(cut.workers, tasks))
        add_parts(tile_of(task), parts_memory + task * parts * cut.sums_bytes);
    });
  }

  accumulator* sums_in(char* scratch) const {
    return reinterpret_cast<accumulator*>(scratch + cut.a_bytes + cut.b_bytes);
  }

  /// C from the sums of the blocks of depth, in the order in which one worker adds them.
  void add_parts(const task_tile& tile, char* memory) {
    const index panels = cut.panel_count(tile.cols), nr = Kernel::nr;
    for (index row = 0; row < tile.rows; row += cut.tile_rows) {
      const index rows = std::min(cut.tile_rows, tile.rows - row);
      for (index col = 0; col < tile.cols; col += nr) {
        const index cols = std::min(nr, tile.cols - col), at = sums_place(row, col, panels);
        const auto part = [&](index block) {
          return reinterpret_cast<accumulator*>(memory + block * cut.sums_bytes) + at;
        };
        if (cut.direct && cut.whole_vectors(cols)) {
          accumulator* const c = static_cast<accumulator*>(data.c) + c_offset(tile, row, col);
          for (index block = 0; block < cut.blocks; ++block)
            gemm_add_tile(c, g.c.stride, part(block), nr, rows, cols, block > 0 || g.e.beta != 0);
        } else {
          for (index block = 1; block < cut.blocks; ++block)
            gemm_add_tile(part(0), nr, part(block), nr, rows, cols, true);
          gemm_finish_tile(g, data.c, tile.batch, tile.row + row, rows, tile.col + col, cols, part(0), nr);
        }
      }
    }
  }

  /// panels: packed B, or null; each depth block has panels_in_block, of which the tile's first is
  /// first_panel.
  void multiply(const task_tile& tile, const char* panels, index first_panel, index panels_in_block,
                char* scratch) {
    if constexpr (!std::is_void_v<typename Kernel::instruction>)
      if (cut.b == gemm_b::dots || cut.b == gemm_b::rows) return multiply_few_rows(tile, scratch);
    if constexpr (Kernel::a_panels)
      if (cut.near) return multiply_near(tile, panels, first_panel, scratch + cut.a_bytes);
    const any_matrix a = with_data(g.a, data.a);
    gemm_tile_args<accumulator> t;
    t.a_step = cut.a_step;
    t.a_stride = cut.a_stride;
    for (index block = tile.first_block; block < tile.end_block; ++block) {
      position at{};
      at.block = block;
      at.k = block * cut.block_depth;
      at.depth = std::min(cut.block_depth, g.a.cols - at.k);
      at.panel_bytes = cut.panel_bytes(block);
      if (panels != nullptr)
        at.ready = panels + (cut.by_block ? 0 : block) * cut.panel_bytes(0) * panels_in_block +
                   first_panel * at.panel_bytes;
      t.groups = cut.groups(block);
      for (at.pass = 0; at.pass < tile.rows; at.pass += cut.pass_rows) {
        at.pass_end = std::min(at.pass + cut.pass_rows, tile.rows);
        if (cut.a == gemm_a::panels)
          gemm_pack_row_panels<Kernel>(a, tile.batch * g.batch_a, tile.row + at.pass, at.pass_end - at.pass,
                                       at.k, at.depth, scratch, gemm_a_panel_bytes(t.groups, cut.a_step),
                                       cut.tile_rows, cut.a_step);
        else if (cut.a == gemm_a::rows)
          gemm_pack_rows<Kernel>(a, tile.batch * g.batch_a, tile.row + at.pass, at.pass_end - at.pass, at.k,
                                 at.depth, scratch, cut.a_stride);
        for (index row = at.pass; row < at.pass_end; row += cut.tile_rows)
          multiply_row(tile, at, row, t, scratch);
      }
    }
  }

  /// One block of depth, A in place: strip after strip of B past all rows.
  void multiply_near(const task_tile& tile, const char* panels, index first_panel, char* memory) {
    position at{};
    at.depth = g.a.cols;
    at.panel_bytes = cut.panel_bytes(0);
    if (panels != nullptr) at.ready = panels + first_panel * at.panel_bytes;
    gemm_tile_args<accumulator> t;
    t.groups = cut.groups(0);
    t.a = gemm_address(with_data(g.a, data.a), tile.batch * g.batch_a + tile.row * g.a.stride);
    t.a_stride = cut.a_stride;
    t.accumulate = g.e.beta != 0;
    t.acc_stride = g.c.stride;
    accumulator* const c = cut.direct ? static_cast<accumulator*>(data.c) + c_offset(tile, 0, 0) : nullptr;
    for (index col = 0; col < tile.cols; col += Kernel::nr) {
      const index cols = std::min<index>(Kernel::nr, tile.cols - col);
      place_b(tile, at, 0, col / Kernel::nr, cols, t, memory);
      if (cut.direct && g.e.bias == nullptr && cut.whole_vectors(cols)) {
        t.acc = c + col;
        gemm_near<Kernel>::run(t, tile.rows, cols);
      } else {
        gemm_near<Kernel>::run(t, tile.rows, cols,
                               [&](index row, index rows, const accumulator* sums, index stride) {
                                 gemm_finish_tile(g, data.c, tile.batch, tile.row + row, rows, tile.col + col,
                                                  cols, sums, stride);
                               });
      }
    }
  }

  /// The same on tiles of AMX, with B packed and C as they leave it.
  void multiply_packed(const task_tile& tile, const char* panels) {
    gemm_tile_args<accumulator> t;
    t.groups = cut.groups(0);
    t.a_stride = cut.a_stride;
    t.b_stride = Kernel::nr * 4;
    t.initial = nullptr;
    t.acc_stride = g.c.stride;
    t.accumulate = g.e.beta != 0;
    for (index row = 0; row < tile.rows; row += cut.tile_rows) {
      t.a = static_cast<const char*>(data.a) + row * cut.a_stride;
      t.b = panels;
      t.acc = static_cast<accumulator*>(data.c) + row * g.c.stride;
      for (index col = 0; col < tile.cols; col += Kernel::nr, t.acc += Kernel::nr, t.b += cut.panel_bytes(0))
        Kernel::run(static_cast<int>(std::min(cut.tile_rows, tile.rows - row)),
                    static_cast<int>(std::min<index>(Kernel::nr, tile.cols - col)), t);
    }
  }

  /// A row of tiles of C, one panel (or 4 panels) after another.
  void multiply_row(const task_tile& tile, const position& at, index row, gemm_tile_args<accumulator>& t,
                    char* scratch) {
    const index panels = cut.panel_count(tile.cols), rows = std::min(cut.tile_rows, at.pass_end - row);
    t.a = cut.a == gemm_a::in_place
              ? gemm_address(with_data(g.a, data.a),
                             tile.batch * g.batch_a + (tile.row + row) * g.a.stride + at.k)
          : cut.a == gemm_a::rows
              ? scratch + (row - at.pass) * cut.a_stride
              : scratch + (row - at.pass) / cut.tile_rows * gemm_a_panel_bytes(t.groups, cut.a_step);
    // What is read few times, from memory: each tile fetches a share of the next rows of A or panels of B.
    const bool fetches_a = cut.prefetches_a && row + cut.tile_rows < tile.rows;
    const index share = fetches_a ? cut.tile_rows * cut.a_stride / panels : cut.b_share;
    t.next = fetches_a    ? t.a + cut.tile_rows * cut.a_stride
             : share != 0 ? at.ready + panels * (at.panel_bytes + row / cut.tile_rows * share)
                          : nullptr;
    t.next_step = share != 0 ? std::max<index>(1, share / t.groups) : 0;
    const index c_size = size_of(g.c.type);
    char* const c_row = static_cast<char*>(data.c) + c_offset(tile, row, 0) * c_size;
    index count = 1;
    for (index panel = 0; panel < panels; panel += count, t.next += count * share) {
      count = cut.wide && (panel + gemm_wide_panels) * Kernel::nr <= tile.cols ? gemm_wide_panels : 1;
      const index col = panel * Kernel::nr, cols = std::min(count * Kernel::nr, tile.cols - col);
      const bool whole = cut.whole_vectors(cols) && !cut.split;
      place_b(tile, at, row, panel, cols, t, scratch + cut.a_bytes);
      char* const c = c_row + col * c_size;
      if (t.groups >= 16 && !cut.split) {  // C is needed a whole tile later: 1 to 4 % where it is not near
        gemm_prefetch_rows(c, g.c.stride * c_size, rows, cols * c_size);
        const any_matrix& pre = g.e.preactivation;
        if (pre.data != nullptr)
          gemm_prefetch_rows(gemm_address(pre, tile.batch * g.batch_preactivation +
                                                   (tile.row + row) * pre.stride + tile.col + col),
                             pre.stride * size_of(pre.type), rows, cols * size_of(pre.type));
      }
      t.narrow = nullptr;
      t.bias = g.e.bias != nullptr ? g.e.bias + tile.col + col : nullptr;
      t.acc_stride = g.c.stride;
      if (whole && cut.direct) {
        t.acc = reinterpret_cast<accumulator*>(c);
        t.accumulate = at.block > 0 || g.e.beta != 0;
        run_kernel(rows, cols, t);
      } else if (whole && cut.converts && count == 1) {
        t.narrow = c;
        t.narrow_type = g.c.type;
        t.accumulate = false;
        run_kernel(rows, cols, t);
      } else {
        t.bias = nullptr;
        t.acc = cut.sums_stay ? tile.sums + sums_place(row, col, panels) : tile.sums;
        t.acc_stride = sums_stride(tile, cols);
        t.accumulate = at.block != tile.first_block;
        run_kernel(rows, cols, t);
        if (at.block + 1 == cut.blocks && !cut.split)
          gemm_finish_tile(g, data.c, tile.batch, tile.row + row, rows, tile.col + col, cols, t.acc,
                           t.acc_stride);
      }
    }
  }

  // Sums of a task that stay: tile by tile, or as rows where 4 panels are one tile.
  index sums_place(index row, index col, index col_panels) const {
    return cut.wide ? col : row * col_panels * Kernel::nr + col * cut.tile_rows;
  }
  index sums_stride(const task_tile& tile, index cols) const {
    if (!cut.wide) return Kernel::nr;
    return cut.sums_stay ? cut.panel_count(tile.cols) * Kernel::nr : std::max<index>(cols, Kernel::nr);
  }

  void run_kernel(index rows, index cols, const gemm_tile_args<accumulator>& t) const {
    if constexpr (Kernel::a_panels)
      if (cols > Kernel::nr)
        return gemm_wide<typename Kernel::instruction>(
            rows, t, t.groups * Kernel::nr * 4 + (Kernel::flips_s8 ? Kernel::nr * 4 : 0));
    Kernel::run(static_cast<int>(rows), static_cast<int>(cols), t);
  }
};

EINKORN_END_LEVEL
