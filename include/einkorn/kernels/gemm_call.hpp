/// One call of GEMM as the driver's parts see it: the operands, where a tile's B is, and products of few
/// rows.
#pragma once

#include "gemm_blocking.hpp"
#include "gemm_epilogue.hpp"
#include "gemm_pack.hpp"

EINKORN_BEGIN_LEVEL

template <class Kernel>
struct gemm_call {
  using accumulator = typename Kernel::accumulator;

  const detail::gemm_args& g;
  const gemm_blocking<Kernel>& cut;
  const detail::gemm_pointers data;

  gemm_call(const detail::gemm_args& args, const gemm_blocking<Kernel>& blocking,
            const detail::gemm_pointers& pointers)
      : g(args), cut(blocking), data(pointers) {}

  struct task_tile {
    index batch, row, rows, col, cols;
    index first_block, end_block;
    accumulator* sums;
  };

  /// What multiply() is at: a block of depth, and the rows [pass, pass_end) of the task whose A is at hand.
  struct position {
    index block, k, depth, panel_bytes;
    const char* ready;  // the block's packed B, or null
    index pass, pass_end;
  };

  index c_offset(const task_tile& tile, index row, index col) const {
    return tile.batch * g.batch_c + (tile.row + row) * g.c.stride + tile.col + col;
  }

  static any_matrix with_data(any_matrix m, const void* with) {
    m.data = const_cast<void*>(with);
    return m;
  }

  /// B of a tile: ready, in place, or packed here for the first row of tiles.
  void place_b(const task_tile& tile, const position& at, index row, index panel, index cols,
               gemm_tile_args<accumulator>& t, char* memory) {
    t.b_stride = Kernel::nr * 4;
    if (at.ready != nullptr) {
      t.b = at.ready + panel * at.panel_bytes;
    } else {
      const any_matrix b = with_data(g.b, data.b);
      const index col = tile.col + panel * Kernel::nr;
      if (cut.b == gemm_b::in_place && cut.whole_vectors(cols)) {
        t.b = gemm_address(b, tile.batch * g.batch_b + at.k * b.stride + col);
        t.b_stride = b.stride * size_of(b.type);
      } else {
        char* const own = memory + (cut.keeps_b ? panel * at.panel_bytes : 0);
        if (row == 0)
          gemm_pack_columns<Kernel>(b, tile.batch * g.batch_b, col, cols, at.k, at.depth, own,
                                    at.panel_bytes);
        t.b = own;
      }
    }
    t.initial = compensation(t);
  }

  /// -128 times the column sums of a panel, where bytes of A were flipped.
  const accumulator* compensation(const gemm_tile_args<accumulator>& t) const {
    return Kernel::flips_s8 && g.a.type == dtype::s8
               ? reinterpret_cast<const accumulator*>(t.b + t.groups * Kernel::nr * 4)
               : nullptr;
  }

  /// Few rows of A, and B as it lies.
  void multiply_few_rows(const task_tile& tile, char* scratch) {
    using instruction = typename Kernel::instruction;
    const any_matrix a = with_data(g.a, data.a), b = with_data(g.b, data.b);
    accumulator* const sums = reinterpret_cast<accumulator*>(scratch + cut.a_bytes);
    const index sums_stride = (tile.cols + 15) & ~index{15}, depth = g.a.cols;
    const char* rows_of_a = scratch;
    index rows = tile.rows;
    if (cut.a == gemm_a::in_place) {
      rows_of_a = gemm_address(a, tile.batch * g.batch_a);
    } else {
      gemm_pack_rows<Kernel>(a, tile.batch * g.batch_a, 0, rows, 0, depth, scratch, cut.a_stride);
      if (Kernel::flips_s8 && a.type == dtype::s8)  // its products are what 128 more in each byte adds
        __builtin_memset(scratch + rows++ * cut.a_stride, 0x80, static_cast<std::size_t>(cut.a_stride));
    }
    gemm_with_slice<Kernel>(
        b, false, tile.batch * g.batch_b, 0, depth, tile.col, tile.cols, [&](const auto& slice) {
          if (cut.b == gemm_b::dots)
            gemm_dot_columns<instruction>(rows, depth, rows_of_a, cut.a_stride, slice.data, slice.stride,
                                          tile.cols, sums, sums_stride);
          else
            gemm_sum_rows<instruction>(rows, depth, cut.block_depth, rows_of_a, cut.a_stride, slice.data,
                                       slice.stride, tile.cols, sums, sums_stride, sums + rows * sums_stride);
        });
    if constexpr (std::is_same_v<accumulator, std::int32_t>) {
      const accumulator* const extra = sums + tile.rows * sums_stride;
      for (index r = 0; rows > tile.rows && r < tile.rows; ++r)
        for (index c = 0; c < tile.cols; ++c)
          sums[r * sums_stride + c] = static_cast<std::int32_t>(
              static_cast<std::uint32_t>(sums[r * sums_stride + c]) - static_cast<std::uint32_t>(extra[c]));
    }
    gemm_finish_tile(g, data.c, tile.batch, 0, tile.rows, tile.col, tile.cols, sums, sums_stride);
  }
};

EINKORN_END_LEVEL
