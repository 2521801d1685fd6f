// One GEMM against reference/gemm.hpp: operands at guard pages, padded strides, NaN in the output before.
#pragma once

#include <einkorn/reference/gemm.hpp>

#include "support.hpp"

namespace test {

struct gemm_shape {
  index rows, cols, depth;
};

/// Shapes around every tile edge of every level (mr 6 and 14 and 32, nr 8, 16, 32, lanes 4, 8, 16, depth
/// steps of 2, 4, 32, 64 and blocks of 1024 groups), primes, 0 and 1.
inline std::vector<gemm_shape> gemm_shapes() {
  std::vector<gemm_shape> shapes = {{0, 5, 3},   {5, 0, 3},   {5, 3, 0},     {1, 1, 1},    {1, 768, 3},
                                    {768, 1, 5}, {1, 1, 700}, {17, 33, 129}, {53, 61, 67}, {97, 101, 103}};
  if (quick()) return shapes;
  for (const index rows : {1, 5, 6, 7, 13, 14, 15, 31, 32, 33}) shapes.push_back({rows, 40, 35});
  for (const index cols : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65})
    shapes.push_back({19, cols, 37});
  for (const index depth :
       {1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1024, 1031, 2049, 4099})
    shapes.push_back({15, 35, depth});
  shapes.push_back({523, 70, 41});    // several row tasks, shared panels
  shapes.push_back({529, 67, 1031});  // and several depth blocks
  // Few rows: dot products of columns as they lie, four panels of packed B at a time.
  for (const gemm_shape s :
       {gemm_shape{1, 131, 2101}, {2, 270, 300}, {3, 133, 1100}, {4, 33, 2100}, {16, 9, 700}})
    shapes.push_back(s);
  return shapes;
}

/// Sets for a scope how the avx512_bf16 level multiplies bf16: by vdpbf16ps, or widened to f32.
class bf16_widened {
 public:
  explicit bf16_widened(bool widened) : before_(einkorn::detail::widens_bf16()) {
    einkorn::detail::widens_bf16() = widened;
  }
  ~bf16_widened() { einkorn::detail::widens_bf16() = before_; }
  bf16_widened(const bf16_widened&) = delete;
  bf16_widened& operator=(const bf16_widened&) = delete;

 private:
  bool before_;
};

/// An operand, stored transposed or not.
template <class T>
struct operand {
  guarded_matrix<T> memory;
  einkorn::matrix_view<const T> view;

  operand(index rows, index cols, bool transposed, index padding, random_numbers& random, index slack = 0,
          bool small_integers = false)
      : memory(transposed ? cols : rows, transposed ? rows : cols, padding, slack) {
    for (index r = 0; r < memory.rows; ++r)
      for (index c = 0; c < memory.cols; ++c)
        memory.view()(r, c) =
            small_integers ? T(static_cast<float>(random.below(9) - 4)) : random_value<T>(random);
    view = memory.const_view();
    if (transposed) view = einkorn::transpose(view);
  }
};

/// Largest slope of an activation: an error of the sum grows by no more.
inline double lipschitz(einkorn::activation act) {
  return act == einkorn::activation::gelu || act == einkorn::activation::gelu_tanh ? 1.13 : 1.0;
}

/// (depth + 2) 2^-23 sum|ab| + eps(C) |c| + depth 2^-126 + tiny(C), the first term scaled by alpha and the
/// activation's slope; beta C, bias and residual add a rounding each, and an activation a few ulp.
struct gemm_bound {
  double alpha = 1, slope = 1, extra = 0;
  template <class T>
  double at(double magnitude, double exact, index depth) const {
    const auto k = static_cast<double>(depth);
    return slope * std::abs(alpha) * ((k + 2) * 0x1p-23 * magnitude + k * 0x1p-126) +
           eps_of<T> * std::abs(exact) + tiny_of<T> + extra;
  }
};

/// The number of elements out of bound (NaN counts), and what else is wrong with the output.
template <class C>
int count_wrong(const guarded_matrix<C>& c, const std::vector<double>& exact,
                const std::vector<double>& magnitude, index depth, const gemm_bound& bound) {
  int wrong = c.intact() ? 0 : 1000000;
  for (index row = 0; row < c.rows; ++row) {
    for (index col = 0; col < c.cols; ++col) {
      const auto i = static_cast<std::size_t>(row * c.cols + col);
      const double error = std::abs(static_cast<double>(static_cast<float>(c.view()(row, col))) - exact[i]);
      if (!(error <= bound.at<C>(magnitude[i], exact[i], depth))) ++wrong;
    }
  }
  return wrong;
}

}  // namespace test
