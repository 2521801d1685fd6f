/// What softmax.hpp hands to the kernels of a level.
#pragma once

#include <span>

#include "../executor.hpp"
#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE

struct softmax_options {
  float scale = 1;
  any_matrix mask = {};  // f32, added after scaling: rows x cols, or 1 x cols for all rows
  std::span<const std::int32_t> lengths = {};  // a row's elements from lengths[row] on are masked
  std::span<float> lse = {};                   // out, rows: log of the sum of exp; -infinity for a masked row
};

namespace detail {
struct softmax_args {
  any_matrix x, y, mask;
  const std::int32_t* lengths;
  float* lse;
  float scale;
  bool streams;
  executor exec;
};
struct softmax_backward_args {
  any_matrix y, dy, dx;
  float scale;
  bool streams;
  executor exec;
};
}  // namespace detail

EINKORN_END_NAMESPACE
