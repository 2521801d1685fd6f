/// What dropout.hpp hands to the kernels of a level.
#pragma once

#include "dropout_spec.hpp"
#include "layernorm_args.hpp"

EINKORN_BEGIN_NAMESPACE

/// What else dropout_residual_layernorm_backward reads, and how it writes.
struct dropout_residual_layernorm_backward_options {
  any_matrix dy_added = {};  // f32, bf16 or fp16, rows x cols: a second gradient of y, added to dy
  bool accumulate = false;   // dgamma and dbeta are added to what is there
};

namespace detail {
struct dropout_args {
  any_matrix x, y;
  dropout_spec spec;
  bool streams;
  executor exec;
};
struct dropout_residual_layernorm_args {
  any_matrix x, residual, sum, y, narrow;
  const float *gamma, *beta;
  float *mean, *rstd;
  float eps;
  dropout_spec spec;
  bool streams_sum, streams_y, streams_narrow;
  executor exec;
};
struct dropout_residual_layernorm_backward_args {
  any_matrix dy, dy_added, sum, dx, dresidual;
  const float *gamma, *mean, *rstd;
  float *dgamma, *dbeta;
  float* partial;  // layernorm_partial_size(rows, cols)
  bool accumulate, streams_dx, streams_dresidual;
  dropout_spec spec;
  executor exec;
};
}  // namespace detail

EINKORN_END_NAMESPACE
