// Worst errors of kernels/math.hpp at every level, against libm in double.
//
// By default every 61st float (70 million) is tried, with EINKORN_TEST_QUICK=1 every 30011th, with
// EINKORN_TEST_FULL=1 all 2^32.
#include <doctest/doctest.h>

#include <einkorn/einkorn.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

EINKORN_BEGIN_NAMESPACE
#define EINKORN_DECLARE(level)                                   \
  namespace level {                                              \
  void apply_math(int which, const float* x, float* y, index n); \
  }
EINKORN_DECLARE(level_baseline)
EINKORN_DECLARE(level_avx2)
EINKORN_DECLARE(level_avx512_vnni)
EINKORN_DECLARE(level_avx512_bf16)
EINKORN_DECLARE(level_amx)
#undef EINKORN_DECLARE
EINKORN_END_NAMESPACE

namespace math_tests {
namespace {

using einkorn::index;
using einkorn::isa;
using apply_function = void (*)(int, const float*, float*, index);

apply_function math_of(isa level) {
  switch (level) {
    case isa::baseline:
      return &einkorn::level_baseline::apply_math;
    case isa::avx2:
      return &einkorn::level_avx2::apply_math;
    case isa::avx512_vnni:
      return &einkorn::level_avx512_vnni::apply_math;
    case isa::avx512_bf16:
      return &einkorn::level_avx512_bf16::apply_math;
    case isa::amx:
      return &einkorn::level_amx::apply_math;
  }
  return nullptr;
}

constexpr double pi = 3.14159265358979323846;
double gelu_exact(double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double gelu_derivative_exact(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-x * x / 2) / std::sqrt(2 * pi);
}
// 0.5 (1 + tanh y) = 1 / (1 + e^-2y), which does not cancel.
double logistic_part(double x) {
  return 1 / (1 + std::exp(-2 * std::sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
}
double gelu_tanh_exact(double x) { return x * logistic_part(x); }
double gelu_tanh_derivative_exact(double x) {
  const double s = logistic_part(x);
  if (s == 0) return 0;
  return s + x * 2 * s * (1 - s) * std::sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x);
}

struct function {
  const char* name;
  double (*exact)(double);
  double ulp_bound;       // of the exact result
  double absolute_bound;  // allowed beside it
  bool is_gelu;           // limits at infinity differ from what libm computes
  float largest = std::numeric_limits<float>::infinity();  // arguments beyond it are not used
};
const function functions[] = {
    {"exp", [](double x) { return std::exp(x); }, 1.3, 0, false},
    {"log", [](double x) { return std::log(x); }, 1.05, 0, false},
    {"erf", [](double x) { return std::erf(x); }, 3.1, 0, false},
    {"tanh", [](double x) { return std::tanh(x); }, 1.6, 0, false},
    {"gelu", gelu_exact, 1, 3e-8, true},
    {"gelu_tanh", gelu_tanh_exact, 1, 3e-8, true},
    {"gelu_derivative", gelu_derivative_exact, 1, 3e-8, true},
    {"gelu_tanh_derivative", gelu_tanh_derivative_exact, 1, 3e-8, true},
    // Of softmax, whose arguments are at most 0 and for which nothing below 2^-149 is left.
    {"exp2", [](double x) { return std::exp2(x); }, 3, 0, false, 0},
};

/// The distance between neighbouring floats at `value`, from the bits of its exponent: ilogb and ldexp would
/// take most of the time of a run over all floats.
double ulp_of(double value) {
  const auto exponent = std::bit_cast<std::uint64_t>(value) >> 52 & 0x7ffu;
  if (exponent < 1023 - 126 || exponent == 0x7ff) return std::isinf(value) ? 0x1p104 : 0x1p-149;
  const std::uint64_t capped = std::min<std::uint64_t>(exponent, 1023 + 127);
  return std::bit_cast<double>((capped - 23) << 52);
}

struct worst_errors {
  double ulp = 0;       // distance to the exact result
  double excess = 0;    // what is left of it after absolute_bound, in ulp
  double absolute = 0;  // where |x| < 100
  float ulp_at = 0, excess_at = 0, absolute_at = 0;
  void join(const worst_errors& o) {
    if (o.ulp > ulp) ulp = o.ulp, ulp_at = o.ulp_at;
    if (!(o.excess <= excess)) excess = o.excess, excess_at = o.excess_at;
    if (o.absolute > absolute) absolute = o.absolute, absolute_at = o.absolute_at;
  }
};

double distance(double exact, float got) {
  if (std::isnan(exact)) return std::isnan(got) ? 0 : std::numeric_limits<double>::infinity();
  if (static_cast<double>(static_cast<float>(exact)) == static_cast<double>(got)) return 0;
  return std::abs(exact - static_cast<double>(got)) / ulp_of(exact);
}

void examine(const function& f, const float* x, const double* exact, const float* y, index n,
             worst_errors& w) {
  for (index i = 0; i < n; ++i) {
    if ((f.is_gelu && std::isinf(x[i])) || x[i] > f.largest) continue;
    // A result beyond the largest float is exact when it is infinity or when the float nearest to it is.
    const double error = distance(exact[i], y[i]);
    if (error > w.ulp || std::isnan(error)) w.ulp = error, w.ulp_at = x[i];
    const double rest = error - f.absolute_bound / ulp_of(exact[i]);
    if (!(rest <= w.excess)) w.excess = rest, w.excess_at = x[i];
    const double absolute = std::abs(exact[i] - static_cast<double>(y[i]));
    if (std::abs(x[i]) < 100 && absolute > w.absolute) w.absolute = absolute, w.absolute_at = x[i];
  }
}

std::uint64_t float_step() {
  const char* full = std::getenv("EINKORN_TEST_FULL");
  const char* quick = std::getenv("EINKORN_TEST_QUICK");
  if (full != nullptr && *full == '1') return 1;
  return quick != nullptr && *quick == '1' ? 30011 : 61;
}

std::vector<isa> available_levels() {
  std::vector<isa> levels;
  for (int i = 0; i < einkorn::isa_count; ++i)
    if (einkorn::isa_available(static_cast<isa>(i))) levels.push_back(static_cast<isa>(i));
  return levels;
}

/// Worst errors of the function numbered `which` over the floats.
void try_floats(int which) {
  const std::vector<isa> levels = available_levels();
  const std::uint64_t step = float_step(), count = (std::uint64_t{1} << 32) / step;
  constexpr index block = 4096;
  const function& f = functions[which];
  const int threads = 2;
  std::vector<std::vector<worst_errors>> found(threads, std::vector<worst_errors>(levels.size()));
  std::vector<char> levels_differ(threads, 0);
  const auto work = [&](int thread) {
    std::vector<float> x(block), y(block), previous(block);
    std::vector<double> exact(block);
    for (std::uint64_t first = static_cast<std::uint64_t>(thread) * block; first < count;
         first += static_cast<std::uint64_t>(threads) * block) {
      for (index i = 0; i < block; ++i) {
        const auto number = static_cast<std::uint32_t>((first + static_cast<std::uint64_t>(i)) * step);
        x[static_cast<std::size_t>(i)] = std::bit_cast<float>(number);
        exact[static_cast<std::size_t>(i)] = f.exact(static_cast<double>(x[static_cast<std::size_t>(i)]));
      }
      for (std::size_t l = 0; l < levels.size(); ++l) {
        math_of(levels[l])(which, x.data(), y.data(), block);
        if (levels[l] > isa::avx512_vnni) {  // the same instructions, so the same bits
          if (std::memcmp(y.data(), previous.data(), block * sizeof(float)) != 0)
            levels_differ[static_cast<std::size_t>(thread)] = 1;
        } else {
          examine(f, x.data(), exact.data(), y.data(), block, found[static_cast<std::size_t>(thread)][l]);
        }
        std::swap(y, previous);
      }
    }
  };
  std::thread second(work, 1);
  work(0);
  second.join();
  CHECK(!levels_differ[0]);
  CHECK(!levels_differ[1]);
  for (std::size_t l = 0; l < levels.size() && levels[l] <= isa::avx512_vnni; ++l) {
    worst_errors w = found[0][l];
    w.join(found[1][l]);
    const std::string place = std::string(f.name) + " " + einkorn::name(levels[l]);
    MESSAGE(place << ": " << w.ulp << " ulp at " << w.ulp_at << ", beyond the absolute bound " << w.excess
                  << " ulp at " << w.excess_at << ", absolute for |x| < 100: " << w.absolute << " at "
                  << w.absolute_at);
    CHECK_MESSAGE(w.excess <= f.ulp_bound, place);
  }
}

}  // namespace

TEST_CASE("exp") { try_floats(0); }
TEST_CASE("log") { try_floats(1); }
TEST_CASE("erf") { try_floats(2); }
TEST_CASE("tanh") { try_floats(3); }
TEST_CASE("gelu") { try_floats(4); }
TEST_CASE("gelu_tanh") { try_floats(5); }
TEST_CASE("gelu_derivative") { try_floats(6); }
TEST_CASE("gelu_tanh_derivative") { try_floats(7); }
TEST_CASE("exp2") { try_floats(8); }

}  // namespace math_tests
