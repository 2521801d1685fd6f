/// What embedding.hpp and embedding_layernorm.hpp hand to the kernels of a level.
#pragma once

#include <span>

#include "../executor.hpp"
#include "dropout_spec.hpp"

EINKORN_BEGIN_NAMESPACE

/// The tokens of a matrix whose rows are tokens. A token's position is its row within its sequence.
struct embedding_tokens {
  std::span<const std::int32_t> word_ids = {};
  std::span<const std::int32_t> type_ids = {};  // as many, or empty: all of type 0
  std::span<const sequence> sequences = {};     // in ascending order, covering every row once
};

/// rows x cols of f32 each; a type table without rows is left out.
struct embedding_tables {
  matrix_view<const float> word = {}, position = {}, type = {};
};
struct embedding_gradients {
  matrix_view<float> word = {}, position = {}, type = {};
};

struct embedding_layernorm_dropout_backward_options {
  std::int32_t padding_id = -1;  // tokens of this id add nothing to the word gradient; -1: none
  bool accumulate = false;       // dgamma and dbeta are added to what is there, as the tables' always are
};

namespace detail {
struct embedding_args {
  embedding_tokens tokens;
  any_matrix word, position, type, out;
  executor exec;
};
struct embedding_backward_args {
  any_matrix dy;
  embedding_tokens tokens;
  any_matrix word, position, type;
  std::int32_t padding_id;
  executor exec;
};
struct embedding_layernorm_dropout_args {
  embedding_args sum;  // sum.out is the sum
  any_matrix y, narrow;
  const float *gamma, *beta;
  float *mean, *rstd;
  float eps;
  dropout_spec spec;
  bool streams_sum, streams_y, streams_narrow;
};
struct embedding_layernorm_dropout_backward_args {
  any_matrix dy, sum;
  embedding_backward_args scatter;  // scatter.dy is what dsum is written to
  const float *gamma, *mean, *rstd;
  float *dgamma, *dbeta;
  float* partial;  // layernorm_partial_size(rows, cols)
  bool accumulate;
  dropout_spec spec;
  executor exec;
};
}  // namespace detail

EINKORN_END_NAMESPACE
