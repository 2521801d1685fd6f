/// What layernorm.hpp hands to the kernels of a level, and how backward cuts the rows into blocks.
#pragma once

#include <span>

#include "../executor.hpp"
#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE

/// What else a layer normalisation writes; each is left out when empty.
struct layernorm_outputs {
  any_output narrow = {};  // bf16 or fp16: y once more, for the next matrix product; y is f32 then
  std::span<float> mean = {}, rstd = {};  // rows: what backward needs
};

namespace detail {
struct layernorm_args {
  any_matrix x, y, narrow;
  const float *gamma, *beta;
  float *mean, *rstd;
  float eps;
  bool streams_y, streams_narrow;
  executor exec;
};
struct layernorm_backward_args {
  any_matrix dy, x, dx;
  const float *gamma, *mean, *rstd;
  float *dgamma, *dbeta;
  float* partial;  // layernorm_partial_size(rows, cols): what each block of rows sums into
  bool accumulate, streams;
  executor exec;
};

/// dgamma and dbeta are summed over blocks of rows that depend on the shape only, then over the blocks.
constexpr index layernorm_block_rows(index rows) noexcept { return rows <= 64 * 32 ? 32 : (rows + 63) / 64; }
constexpr index layernorm_blocks(index rows) noexcept {
  return (rows + layernorm_block_rows(rows) - 1) / layernorm_block_rows(rows);
}
/// Floats. A block has its dgamma and dbeta, and two rows to widen into; each starts at a multiple of 16.
constexpr index layernorm_partial_stride(index cols) noexcept { return (cols + 15) / 16 * 16; }
constexpr index layernorm_partial_size(index rows, index cols) noexcept {
  return 4 * layernorm_blocks(rows) * layernorm_partial_stride(cols);
}

}  // namespace detail

EINKORN_END_NAMESPACE
