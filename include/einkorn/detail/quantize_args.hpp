/// What quantize.hpp hands to the kernels of a level.
#pragma once

#include "../executor.hpp"
#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {

struct quantize_rows_args {
  any_matrix x, q;      // q: u8 (zeros) or s8 (symmetric)
  float* scales;        // rows
  std::int32_t* zeros;  // rows; u8 only
  std::int32_t* sums;   // rows, or null: of q
  executor exec;
};

}  // namespace detail
EINKORN_END_NAMESPACE
