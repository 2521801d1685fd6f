/// What gemm.hpp computes, as plain loops in double: the truth of its tests.
#pragma once

#include <cmath>
#include <vector>

#include "../epilogue.hpp"
#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE
namespace reference {

/// bf16 instructions take denormal operands as zero.
inline double value(float x) { return x; }
inline double value(fp16 x) { return static_cast<float>(x); }
inline double value(bf16 x) {
  const double v = static_cast<float>(x);
  return std::abs(v) < 0x1p-126 ? 0.0 : v;
}

inline double element(const any_matrix& m, index row, index col) {
  const index i = m.transposed ? col * m.stride + row : row * m.stride + col;
  if (m.type == dtype::bf16) return value(static_cast<const bf16*>(m.data)[i]);
  if (m.type == dtype::fp16) return value(static_cast<const fp16*>(m.data)[i]);
  return static_cast<const float*>(m.data)[i];
}

inline double activate(activation act, double x) {
  switch (act) {
    case activation::gelu:
      return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    case activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case activation::relu:
      return x < 0 ? 0 : x;  // NaN stays
    case activation::tanh:
      return std::tanh(x);
    default:
      return x;
  }
}

/// The product of row r of A and column c of B, in double; of int8, dequantised. magnitude is sum|a*b|, or
/// |product| of int8, whose sum is exact: what error bounds need.
template <class A, class B>
double product(const matrix_view<A>& a, const matrix_view<B>& b, const dequantization& d, index r, index c,
               double& magnitude) {
  if constexpr (std::is_integral_v<A>) {
    std::uint32_t sum = 0;
    for (index k = 0; k < a.cols; ++k)
      sum += static_cast<std::uint32_t>(std::int32_t{a(r, k)} * std::int32_t{b(k, c)});
    if (d.row_zero != nullptr)
      sum -= static_cast<std::uint32_t>(d.row_zero[r]) * static_cast<std::uint32_t>(d.col_sum[c]);
    double v = static_cast<std::int32_t>(sum);
    if (d.row_scale != nullptr) v *= static_cast<double>(d.row_scale[r]);
    if (d.col_scale != nullptr) v *= static_cast<double>(d.col_scale[c]);
    magnitude = std::abs(v);
    return v;
  } else {
    double sum = 0;
    magnitude = 0;
    for (index k = 0; k < a.cols; ++k) {
      const double ab = value(a(r, k)) * value(b(k, c));
      sum += ab;
      magnitude += std::abs(ab);
    }
    return sum;
  }
}

/// Results in double, rows * cols each; the caller rounds. magnitude: see product().
struct gemm_result {
  std::vector<double> c, preactivation, magnitude;
};

template <class A, class B, class C>
gemm_result gemm(const matrix_view<A>& a, const matrix_view<B>& b, const matrix_view<C>& c,
                 const epilogue& e = {}) {
  gemm_result result;
  for (index row = 0; row < a.rows; ++row) {
    for (index col = 0; col < b.cols; ++col) {
      double magnitude = 0;
      double v = e.alpha * product(a, b, e.dequantize, row, col, magnitude);
      if (e.beta != 0) v += e.beta * static_cast<double>(c(row, col));
      if (e.bias != nullptr) v += e.bias[col];
      result.preactivation.push_back(v);
      v = activate(e.act, v);
      if (e.residual.data != nullptr) v += element(e.residual, row, col);
      result.c.push_back(v);
      result.magnitude.push_back(magnitude);
    }
  }
  return result;
}

/// The integer product modulo 2^32, plus C where accumulate.
template <class A, class B, class C>
std::vector<std::int32_t> gemm_int(const matrix_view<A>& a, const matrix_view<B>& b, const matrix_view<C>& c,
                                   bool accumulate = false) {
  std::vector<std::int32_t> result;
  for (index row = 0; row < a.rows; ++row) {
    for (index col = 0; col < b.cols; ++col) {
      std::uint32_t sum = accumulate ? static_cast<std::uint32_t>(c(row, col)) : 0;
      for (index k = 0; k < a.cols; ++k)
        sum += static_cast<std::uint32_t>(std::int32_t{a(row, k)} * std::int32_t{b(k, col)});
      result.push_back(static_cast<std::int32_t>(sum));
    }
  }
  return result;
}

}  // namespace reference
EINKORN_END_NAMESPACE
