/// What stands before a transformer's first layer in one pass: the sum of the embeddings, its layer
/// normalisation and dropout; and its gradients.
#pragma once

#include "embedding.hpp"
#include "layernorm.hpp"

EINKORN_BEGIN_NAMESPACE

/// sum = word + position + type as embedding() adds them; y = dropout(layernorm(sum)), each matrix written
/// once and none read.
///
/// sum: tokens x cols, f32, which backward reads; y: f32, bf16 or fp16, and outputs.narrow a copy of it. y
/// may be sum where no backward follows. Same bits as embedding, layernorm to f32, dropout and convert one
/// after the other, whose errors it has; for any number of threads. Allocates nothing. Throws einkorn::error,
/// as those do, before anything is written. Options: detail/embedding_args.hpp, layernorm_args.hpp and
/// dropout_spec.hpp. Truth: reference/embedding.hpp, layernorm.hpp and dropout.hpp
inline void embedding_layernorm_dropout(const embedding_tokens& tokens, const embedding_tables& tables,
                                        std::span<const float> gamma, std::span<const float> beta, float eps,
                                        const dropout_spec& spec, const any_output& sum, const any_output& y,
                                        const layernorm_outputs& outputs = {},
                                        const executor& exec = default_executor()) {
  const char* const function = "embedding_layernorm_dropout";
  detail::require_f32(function, "sum", sum);
  detail::check_embedding(function, tokens, "sum", sum, tables.word, tables.position, tables.type);
  detail::check_layernorm(function, sum, gamma, beta, y, outputs);
  detail::require_same_or_apart(function, "y", y, "sum", sum);
  detail::require_dropout(function, spec, sum.rows, sum.cols);
  const bool streams = detail::streams({sum, y, outputs.narrow});
  detail::kernels().embedding_layernorm_dropout(
      {{tokens, tables.word, tables.position, tables.type, sum, exec},
       y,
       outputs.narrow,
       gamma.data(),
       beta.data(),
       outputs.mean.empty() ? nullptr : outputs.mean.data(),
       outputs.rstd.empty() ? nullptr : outputs.rstd.data(),
       eps,
       spec,
       streams && y.data != sum.data,
       streams && y.data != sum.data,
       streams});
}

/// The gradients of embedding_layernorm_dropout: dropout's mask and the gradient of the normalisation in one
/// pass over the rows, which leaves the gradient of the sum in dsum; then embedding_backward() of it.
///
/// dy: tokens x cols, f32, bf16 or fp16; sum, mean, rstd: from the forward call; dsum: f32, and may be dy or
/// sum. dgamma and dbeta as layernorm_backward, the tables as embedding_backward: same bits as
/// dropout_backward to f32, layernorm_backward and embedding_backward one after the other.
/// Threads, scratch memory and errors as layernorm_backward. Options and truth: as of the forward call
inline void embedding_layernorm_dropout_backward(
    const any_matrix& dy, const embedding_tokens& tokens, const any_matrix& sum, std::span<const float> gamma,
    std::span<const float> mean, std::span<const float> rstd, const dropout_spec& spec,
    const any_output& dsum, std::span<float> dgamma, std::span<float> dbeta,
    const embedding_gradients& gradients, const embedding_layernorm_dropout_backward_options& options = {},
    const executor& exec = default_executor()) {
  const char* const function = "embedding_layernorm_dropout_backward";
  detail::require_f32(function, "sum", sum);
  detail::require_f32(function, "dsum", dsum);
  detail::check_layernorm_backward(function, dy, sum, gamma, mean, rstd, dgamma, dbeta);
  detail::require_same_shape(function, "dsum", dsum, "sum", sum);
  detail::require_same_or_apart(function, "dsum", dsum, "dy", dy);
  detail::require_same_or_apart(function, "dsum", dsum, "sum", sum);
  detail::check_embedding(function, tokens, "sum", sum, gradients.word, gradients.position, gradients.type);
  detail::require_dropout(function, spec, sum.rows, sum.cols);
  workspace_lease memory(nullptr);
  auto* const partial = static_cast<float*>(
      memory.reserve(detail::layernorm_partial_size(sum.rows, sum.cols) * static_cast<index>(sizeof(float))));
  detail::kernels().embedding_layernorm_dropout_backward(
      {dy,
       sum,
       {dsum, tokens, gradients.word, gradients.position, gradients.type, options.padding_id, exec},
       gamma.data(),
       mean.data(),
       rstd.data(),
       dgamma.data(),
       dbeta.data(),
       partial,
       options.accumulate,
       spec,
       exec});
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
