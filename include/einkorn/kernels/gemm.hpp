/// The GEMM of a level (first version: plain loops, to be replaced by the blocked driver).
#pragma once

#include "../detail/gemm_args.hpp"
#include "parallel.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

inline index gemm_offset(const any_matrix& m, index row, index col) {
  return m.transposed ? col * m.stride + row : row * m.stride + col;
}
inline float gemm_read(const any_matrix& m, index i) {
  if (m.type == dtype::bf16) return static_cast<const bf16*>(m.data)[i];
  if (m.type == dtype::fp16) return static_cast<const fp16*>(m.data)[i];
  return static_cast<const float*>(m.data)[i];
}
inline void gemm_write(const any_matrix& m, index i, float v) {
  if (m.type == dtype::bf16)
    static_cast<bf16*>(m.data)[i] = bf16(v);
  else if (m.type == dtype::fp16)
    static_cast<fp16*>(m.data)[i] = fp16(v);
  else
    static_cast<float*>(m.data)[i] = v;
}
inline float gemm_activate(activation act, float x) {
  switch (act) {
    case activation::gelu:
      return 0.5f * x * (1.0f + ::erff(x * 0.70710678f));
    case activation::gelu_tanh:
      return 0.5f * x * (1.0f + ::tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case activation::relu:
      return x < 0 ? 0.0f : x;
    case activation::tanh:
      return ::tanhf(x);
    default:
      return x;
  }
}

inline void gemm(const detail::gemm_args& g) {
  if (g.scratch(g.scratch_context, 64) == nullptr) return;
  any_matrix b = g.b;
  if (g.packed != nullptr) {
    b.data = const_cast<void*>(g.packed);
    b.stride = b.cols;
  }
  parallel_for(g.exec, g.batch * g.c.rows, [&](index task) {
    const index i = task / g.c.rows, row = task % g.c.rows;
    for (index col = 0; col < g.c.cols; ++col) {
      const index at = i * g.batch_c + row * g.c.stride + col;
      if (g.c.type == dtype::i32) {
        std::uint32_t sum =
            g.e.beta != 0 ? static_cast<std::uint32_t>(static_cast<std::int32_t*>(g.c.data)[at]) : 0;
        for (index k = 0; k < g.a.cols; ++k) {
          const index x = i * g.batch_a + gemm_offset(g.a, row, k);
          const std::int32_t left = g.a.type == dtype::u8
                                        ? std::int32_t{static_cast<const std::uint8_t*>(g.a.data)[x]}
                                        : std::int32_t{static_cast<const std::int8_t*>(g.a.data)[x]};
          const index y = i * g.batch_b + gemm_offset(b, k, col);
          sum += static_cast<std::uint32_t>(left * static_cast<const std::int8_t*>(b.data)[y]);
        }
        static_cast<std::int32_t*>(g.c.data)[at] = static_cast<std::int32_t>(sum);
        continue;
      }
      float v = 0;
      for (index k = 0; k < g.a.cols; ++k)
        v += gemm_read(g.a, i * g.batch_a + gemm_offset(g.a, row, k)) *
             gemm_read(b, i * g.batch_b + gemm_offset(b, k, col));
      v *= g.e.alpha;
      if (g.e.beta != 0) v += g.e.beta * gemm_read(g.c, at);
      if (g.e.bias != nullptr) v += g.e.bias[col];
      const any_matrix &pre = g.e.preactivation, &residual = g.e.residual;
      if (pre.data != nullptr) gemm_write(pre, i * g.batch_preactivation + row * pre.stride + col, v);
      v = gemm_activate(g.e.act, v);
      if (residual.data != nullptr)
        v += gemm_read(residual, i * g.batch_residual + row * residual.stride + col);
      gemm_write(g.c, at, v);
    }
  });
}

inline void gemm_pack(const detail::gemm_pack_args& g) {
  const index size = size_of(g.b.type);
  *g.bytes = g.b.rows * g.b.cols * size;
  if (g.out == nullptr) return;
  for (index k = 0; k < g.b.rows; ++k)
    for (index col = 0; col < g.b.cols; ++col)
      for (index byte = 0; byte < size; ++byte)
        static_cast<char*>(g.out)[(k * g.b.cols + col) * size + byte] =
            static_cast<const char*>(g.b.data)[gemm_offset(g.b, k, col) * size + byte];
}

EINKORN_END_LEVEL
