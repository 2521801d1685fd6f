/// Layer normalisation and its gradients.
#pragma once

#include "layernorm_rows.hpp"

EINKORN_BEGIN_LEVEL

namespace layernorm_rows {

template <class X, class Y, class Narrow>
inline void forward_block(const detail::layernorm_args& a, index first, index last) {
  const index n = a.x.cols;
  float sum = first < last ? sum_of(row_of<const X>(a.x, first), n) : 0;
  for (index r = first; r < last; ++r) {
    const X* x = row_of<const X>(a.x, r);
    const moments m = moments_of(x, n, sum, a.eps);
    keep_moments(a, r, m);
    // Of the next row already, while the root and the division of this one take their time.
    if (r + 1 < last) sum = sum_of(row_of<const X>(a.x, r + 1), n);
    const output_row<Y, Narrow> out(a.y, a.narrow, r, a.streams_y, a.streams_narrow);
    const vf mean = broadcast(m.mean), rstd = broadcast(m.rstd);
    const float *gamma = a.gamma, *beta = a.beta;
    out.write(
        0, n, [&](index i, const auto& lanes) __attribute__((always_inline)) {
          return fma((lanes(x + i) - mean) * rstd, lanes(gamma + i), lanes(beta + i));
        });
  }
  if (a.streams_y || a.streams_narrow) streaming_done();
}

template <class D, class X, class Out>
inline void backward_row(const detail::layernorm_backward_args& a, const block_memory& memory, index row,
                         index last, const D* d, const X* x) {
  const index n = a.x.cols;
  const moments m{a.mean[row], a.rstd[row]};
  const gradient_sums sums = add_gradients(d, x, n, m, a.gamma, memory.dgamma, memory.dbeta);
  const gradient_formula<D, X> gradient(d, x, a.gamma, n, m, sums);
  Out* dx = row_of<Out>(a.dx, row);
  const bool past_caches = a.streams && can_stream(dx);
  const next_row next_dy(a.dy, row, last, a.streams), next_x(a.x, row, last, a.streams);
  write_row(
      dx, n, past_caches, [&](index i, const auto& lanes) __attribute__((always_inline)) {
        next_dy.fetch(i);
        next_x.fetch(i);
        return gradient(i, lanes);
      });
}

template <class T>
inline void backward_block(const detail::layernorm_backward_args& a, const block_memory& memory, index first,
                           index last) {
  for (index r = first; r < last; ++r)
    backward_row<T, T, T>(a, memory, r, last, row_of<const T>(a.dy, r), row_of<const T>(a.x, r));
  if (a.streams) streaming_done();
}
/// Any mixture of types, through rows of f32 in the block's memory.
template <class Out>
inline void mixed_backward_block(const detail::layernorm_backward_args& a, const block_memory& memory,
                                 index first, index last) {
  for (index r = first; r < last; ++r)
    backward_row<float, float, Out>(a, memory, r, last, f32_row(a.dy, r, memory.d_row),
                                    f32_row(a.x, r, memory.x_row));
  if (a.streams) streaming_done();
}

}  // namespace layernorm_rows

inline void layernorm(const detail::layernorm_args& a) {
  const auto block = with_real(a.x.type, [&](auto x) {
    return layernorm_rows::with_outputs(a.y, a.narrow, [](auto* y, auto* narrow) {
      return &layernorm_rows::forward_block<decltype(x), std::remove_pointer_t<decltype(y)>,
                                            std::remove_pointer_t<decltype(narrow)> >;
    });
  });
  parallel_rows(a.exec, a.x.rows, a.x.cols, [&](index first, index last) { block(a, first, last); });
}

inline void layernorm_backward(const detail::layernorm_backward_args& a) {
  const bool same = a.dy.type == a.x.type && a.x.type == a.dx.type;
  const auto block = with_real(a.dx.type, [&](auto dx) {
    using T = decltype(dx);
    return same ? &layernorm_rows::backward_block<T> : &layernorm_rows::mixed_backward_block<T>;
  });
  layernorm_rows::sum_blocks(a, a.x.rows, a.x.cols, block);
}

EINKORN_END_LEVEL
