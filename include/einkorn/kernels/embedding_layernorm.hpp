/// Embedding sum + layer normalisation + dropout in one pass, and back.
#pragma once

#include "../detail/embedding_args.hpp"
#include "dropout.hpp"
#include "embedding.hpp"

EINKORN_BEGIN_LEVEL

namespace embedding_rows {

template <class Y, class Narrow>
inline void forward_block(const detail::embedding_layernorm_dropout_args& a, index first, index last) {
  using namespace layernorm_rows;
  const any_matrix& out = a.sum.out;
  const index n = out.cols;
  token_rows tokens(a.sum, first);
  dropout_rows rows(a.spec, n, first);
  alignas(64) float buffer[dropout_blocks::buffered_cols];
  for (index r = first; r < last; ++r) {
    tokens.go_to(r);
    float* sum = row_of<float>(out, r);
    const bool sum_past_caches = a.streams_sum && n <= dropout_blocks::buffered_cols && can_stream(sum);
    float* kept = sum_past_caches ? buffer : sum;
    for_vectors(n, [&](index i, const auto& lanes) { lanes(kept + i, tokens.sum(i, lanes)); });
    const moments m = moments_of(kept, n, sum_of(kept, n), a.eps);
    keep_moments(a, r, m);
    const output_row<Y, Narrow> y(a.y, a.narrow, r, a.streams_y, a.streams_narrow);
    const vf mean = broadcast(m.mean), rstd = broadcast(m.rstd);
    const float *gamma = a.gamma, *beta = a.beta;
    const auto write = [&](index col, index count, const auto& factor) __attribute__((always_inline)) {
      y.write(
          col, count, [&](index k, const auto& lanes) __attribute__((always_inline)) {
            const index i = col + k;
            const vf value = lanes(kept + i);
            if (sum_past_caches) lanes(sum + i, value, true);
            return fma((value - mean) * rstd, lanes(gamma + i), lanes(beta + i)) * factor(k);
          });
    };
    dropout_blocks::for_masked_chunks(rows, r, n, write);
  }
  if (a.streams_sum || a.streams_y || a.streams_narrow) streaming_done();
}

template <class D>
inline void backward_block(const detail::embedding_layernorm_dropout_backward_args& a,
                           const layernorm_rows::block_memory& memory, index first, index last) {
  using namespace layernorm_rows;
  const index n = a.sum.cols;
  dropout_rows rows(a.spec, n, first);
  for (index r = first; r < last; ++r) {
    const D* dy = row_of<const D>(a.dy, r);
    float* d = memory.d_row;
    const auto mask = [&](index col, index count, const auto& factor) __attribute__((always_inline)) {
      for_vectors(count,
                  [&](index i, const auto& lanes) { lanes(d + col + i, lanes(dy + col + i) * factor(i)); });
    };
    dropout_blocks::for_masked_chunks(rows, r, n, mask);
    const float* x = row_of<const float>(a.sum, r);
    const moments m{a.mean[r], a.rstd[r]};
    const gradient_sums sums = add_gradients<float, float>(d, x, n, m, a.gamma, memory.dgamma, memory.dbeta);
    const gradient_formula<float, float> gradient(d, x, a.gamma, n, m, sums);
    float* dsum = row_of<float>(a.scatter.dy, r);
    for_vectors(n, [&](index i, const auto& lanes) { lanes(dsum + i, gradient(i, lanes)); });
  }
}

}  // namespace embedding_rows

inline void embedding_layernorm_dropout(const detail::embedding_layernorm_dropout_args& a) {
  const auto block = layernorm_rows::with_outputs(a.y, a.narrow, [](auto* y, auto* narrow) {
    return &embedding_rows::forward_block<std::remove_pointer_t<decltype(y)>,
                                          std::remove_pointer_t<decltype(narrow)> >;
  });
  parallel_rows(a.sum.exec, a.sum.out.rows, a.sum.out.cols,
                [&](index first, index last) { block(a, first, last); });
}

inline void embedding_layernorm_dropout_backward(const detail::embedding_layernorm_dropout_backward_args& a) {
  const auto block =
      with_real(a.dy.type, [](auto dy) { return &embedding_rows::backward_block<decltype(dy)>; });
  layernorm_rows::sum_blocks(a, a.sum.rows, a.sum.cols, block);
  embedding_backward(a.scatter);
}

EINKORN_END_LEVEL
