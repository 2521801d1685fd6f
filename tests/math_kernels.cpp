// kernels/math.hpp for math_test.cpp: compiled once per ISA level, like the library's own kernels.
#include <einkorn/kernels/math.hpp>
#include <einkorn/kernels/parallel.hpp>

EINKORN_BEGIN_LEVEL

// y[i] = f(x[i]) for the function numbered `which`; n is a multiple of 16.
void apply_math(int which, const float* x, float* y, index n) {
  const default_mxcsr environment;
  const auto loop = [&](auto f) {
    for (index i = 0; i < n; i += vf_size) store(y + i, f(load(x + i)));
  };
  switch (which) {
    case 0:
      loop([](vf v) { return exp(v); });
      break;
    case 1:
      loop([](vf v) { return log(v); });
      break;
    case 2:
      loop([](vf v) { return erf(v); });
      break;
    case 3:
      loop([](vf v) { return tanh(v); });
      break;
    case 4:
      loop([](vf v) { return gelu(v); });
      break;
    case 5:
      loop([](vf v) { return gelu_tanh(v); });
      break;
    case 6:
      loop([](vf v) { return gelu_derivative(v); });
      break;
    case 7:
      loop([](vf v) { return gelu_tanh_derivative(v); });
      break;
    case 8:
      loop([](vf v) { return exp2(v); });
      break;
    default:
      break;
  }
}

EINKORN_END_LEVEL
