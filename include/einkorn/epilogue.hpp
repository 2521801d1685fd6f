/// What a GEMM does to its result before it is stored, as plain data that crosses the dispatch.
#pragma once

#include "types.hpp"

EINKORN_BEGIN_NAMESPACE

/// gelu: x * Phi(x), with erf. gelu_tanh: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
enum class activation : std::uint8_t { none, gelu, gelu_tanh, relu, tanh };

/// What the i32 sum of an int8 product stands for, where C is f32, bf16 or fp16:
///   (A B)(r, c) = ((sum - row_zero[r] * col_sum[c]) * col_scale[c]) * row_scale[r]
/// The bracket is exact modulo 2^32 and is then rounded to f32. Null: a scale of 1; zeros and sums go
/// together.
struct dequantization {
  const float *row_scale = nullptr, *col_scale = nullptr;  // rows of C, cols of C
  const std::int32_t *row_zero = nullptr, *col_sum = nullptr;
  constexpr bool any() const noexcept {
    return row_scale != nullptr || col_scale != nullptr || row_zero != nullptr || col_sum != nullptr;
  }
};

/// For every element, in f32:
///   v = alpha * (A B)(r, c) + beta * C(r, c) + bias[c]
///   preactivation(r, c) = v
///   v = act(v) + residual(r, c)
///   C(r, c) = v
/// beta == 0 does not read C. preactivation and residual may be f32, bf16 or fp16, whatever C is.
struct epilogue {
  float alpha = 1, beta = 0;
  const float* bias = nullptr;  // cols of C, or null
  activation act = activation::none;
  any_output preactivation = {};   // stored if data is not null; shares nothing with A, B, C
  any_matrix residual = {};        // added if data is not null; may be C itself
  dequantization dequantize = {};  // int8 products only, not in a batch
};

EINKORN_END_NAMESPACE
