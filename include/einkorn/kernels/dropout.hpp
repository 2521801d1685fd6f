/// Dropout, and dropout + residual + layer normalisation in one pass over memory.
///
/// Masks are made for 2,048 columns at a time, as 256 bytes of bits on the stack, and spread into factors as
/// the row is read: the generator's registers and the row's do not compete.
#pragma once

#include "../detail/dropout_args.hpp"
#include "layernorm_rows.hpp"
#include "philox.hpp"

EINKORN_BEGIN_LEVEL

namespace dropout_blocks {

inline constexpr index mask_cols = 2048;

/// chunk(first_col, count, factor) over the row; factor(i) is the vector of factors from column
/// first_col + i on.
template <class Chunk>
[[gnu::always_inline]] inline void for_masked_chunks(dropout_rows& rows, index row, index cols,
                                                     const Chunk& chunk) {
  if (!rows.drops()) return chunk(index{0}, cols, [](index) { return broadcast(1.0f); });
  const vf scale = broadcast(rows.scale());
  std::uint8_t bits[dropout_stream::bits_size(mask_cols)];
  for (index first = 0; first < cols; first += mask_cols) {
    const index count = cols - first < mask_cols ? cols - first : mask_cols;
    const index position = rows.keep_bits(row, first, count, bits);
    chunk(first, count, [&](index i) { return keep_factors(bits, position, i, scale); });
  }
}

template <class X, class Y>
inline void dropout_block(const detail::dropout_args& a, index first, index last) {
  const index n = a.x.cols;
  dropout_rows rows(a.spec, n, first);
  for (index r = first; r < last; ++r) {
    const X* x = row_of<const X>(a.x, r);
    Y* y = row_of<Y>(a.y, r);
    // The generator binds where results are narrow, and streaming them costs 5 to 10 % then.
    const bool past_caches = a.streams && (sizeof(Y) == 4 || !rows.drops()) && can_stream(y);
    for_masked_chunks(
        rows, r, n, [&](index col, index count, const auto& factor) __attribute__((always_inline)) {
          write_row(
              y + col, count, past_caches, [&](index i, const auto& lanes) __attribute__((always_inline)) {
                return lanes(x + col + i) * factor(i);
              });
        });
  }
  if (a.streams) streaming_done();
}

/// sum = dropout(x) + residual; returns the sum of the row.
template <class X>
inline float add_residual(dropout_rows& rows, index r, const X* x, const float* residual, float* sum,
                          index n) {
  float total = 0;
  for_masked_chunks(
      rows, r, n, [&](index first, index count, const auto& factor) __attribute__((always_inline)) {
        four_sums sums;
        for_vectors(
            count, sums, [&](index i, const auto& lanes, vf& part) __attribute__((always_inline)) {
              const vf value = fma(lanes(x + first + i), factor(i), lanes(residual + first + i));
              lanes(sum + first + i, value);
              part += value;
            });
        total += sums.total();
      });
  return total;
}

/// A sum that goes past the caches is read again before it may: the row waits here in L1.
inline constexpr index buffered_cols = 4096;

template <class X, class Y, class Narrow>
inline void fused_block(const detail::dropout_residual_layernorm_args& a, index first, index last) {
  using namespace layernorm_rows;
  const index n = a.x.cols;
  dropout_rows rows(a.spec, n, first);
  alignas(64) float buffer[buffered_cols];
  for (index r = first; r < last; ++r) {
    float* sum = row_of<float>(a.sum, r);
    const bool sum_past_caches = a.streams_sum && n <= buffered_cols && can_stream(sum);
    float* kept = sum_past_caches ? buffer : sum;
    const float total =
        add_residual(rows, r, row_of<const X>(a.x, r), row_of<const float>(a.residual, r), kept, n);
    const moments m = moments_of(kept, n, total, a.eps);
    keep_moments(a, r, m);
    const output_row<Y, Narrow> out(a.y, a.narrow, r, a.streams_y, a.streams_narrow);
    const vf mean = broadcast(m.mean), rstd = broadcast(m.rstd);
    const float *gamma = a.gamma, *beta = a.beta;
    const bool from_memory = a.streams_sum || a.streams_y;
    const next_row next_x(a.x, r, last, from_memory), next_residual(a.residual, r, last, from_memory);
    out.write(
        0, n, [&](index i, const auto& lanes) __attribute__((always_inline)) {
          next_x.fetch(i);
          next_residual.fetch(i);
          const vf value = lanes(kept + i);
          if (sum_past_caches) lanes(sum + i, value, true);
          return fma((value - mean) * rstd, lanes(gamma + i), lanes(beta + i));
        });
  }
  if (a.streams_sum || a.streams_y || a.streams_narrow) streaming_done();
}

/// dy + dy_added as f32; the row of dy itself when there is nothing to do.
inline const float* incoming_row(const any_matrix& dy, const any_matrix& added, index row, float* buffer,
                                 float* other_buffer) {
  const float* d = layernorm_rows::f32_row(dy, row, buffer);
  if (!added) return d;
  const float* more = layernorm_rows::f32_row(added, row, other_buffer);
  for_vectors(dy.cols,
              [&](index i, const auto& lanes) { lanes(buffer + i, lanes(d + i) + lanes(more + i)); });
  return buffer;
}

template <class D>
inline void fused_backward_block(const detail::dropout_residual_layernorm_backward_args& a,
                                 const layernorm_rows::block_memory& memory, index first, index last) {
  using namespace layernorm_rows;
  const index n = a.sum.cols;
  dropout_rows rows(a.spec, n, first);
  for (index r = first; r < last; ++r) {
    const float* d = incoming_row(a.dy, a.dy_added, r, memory.d_row, memory.x_row);
    const float* x = row_of<const float>(a.sum, r);
    const moments m{a.mean[r], a.rstd[r]};
    const gradient_sums sums = add_gradients(d, x, n, m, a.gamma, memory.dgamma, memory.dbeta);
    const gradient_formula<float, float> gradient(d, x, a.gamma, n, m, sums);
    D* dx = row_of<D>(a.dx, r);
    float* dresidual = a.dresidual ? row_of<float>(a.dresidual, r) : nullptr;
    const bool dx_past_caches = a.streams_dx && can_stream(dx);
    const bool dresidual_past_caches = a.streams_dresidual && can_stream(dresidual);
    const bool from_memory = a.streams_dx || a.streams_dresidual;
    const next_row next_dy(a.dy, r, last, from_memory), next_sum(a.sum, r, last, from_memory),
        next_added(a.dy_added ? a.dy_added : a.dy, r, last, from_memory);
    const auto write = [&](index col, index count, const auto& factor) __attribute__((always_inline)) {
      write_row(
          dx + col, count, dx_past_caches, [&](index i, const auto& lanes) __attribute__((always_inline)) {
            next_dy.fetch(col + i);
            next_added.fetch(col + i);
            next_sum.fetch(col + i);
            const vf value = gradient(col + i, lanes);
            if (dresidual != nullptr) lanes(dresidual + col + i, value, dresidual_past_caches);
            return value * factor(i);
          });
    };
    for_masked_chunks(rows, r, n, write);
  }
  if (a.streams_dx || a.streams_dresidual) streaming_done();
}

}  // namespace dropout_blocks

inline void dropout(const detail::dropout_args& a) {
  const auto block = with_real(a.x.type, [&](auto x) {
    return with_real(a.y.type,
                     [](auto y) { return &dropout_blocks::dropout_block<decltype(x), decltype(y)>; });
  });
  parallel_rows(a.exec, a.x.rows, a.x.cols, [&](index first, index last) { block(a, first, last); });
}

inline void dropout_residual_layernorm(const detail::dropout_residual_layernorm_args& a) {
  const auto block = with_real(a.x.type, [&](auto x) {
    return layernorm_rows::with_outputs(a.y, a.narrow, [](auto* y, auto* narrow) {
      return &dropout_blocks::fused_block<decltype(x), std::remove_pointer_t<decltype(y)>,
                                          std::remove_pointer_t<decltype(narrow)> >;
    });
  });
  parallel_rows(a.exec, a.x.rows, a.x.cols, [&](index first, index last) { block(a, first, last); });
}

inline void dropout_residual_layernorm_backward(const detail::dropout_residual_layernorm_backward_args& a) {
  const auto block =
      with_real(a.dx.type, [](auto dx) { return &dropout_blocks::fused_backward_block<decltype(dx)>; });
  layernorm_rows::sum_blocks(a, a.sum.rows, a.sum.cols, block);
}

EINKORN_END_LEVEL
