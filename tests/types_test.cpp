// Conversions against the compiler's own, over every 16-bit pattern and many f32 ones; views; that no
// operation writes through a view of const elements.
#include <doctest/doctest.h>
#include <bit>
#include <cmath>
#include <einkorn/einkorn.hpp>

using namespace einkorn;

TEST_CASE("fp16 to f32 is exact for every pattern") {
  for (int bits = 0; bits < 65536; ++bits) {
    const fp16 h = fp16::from_bits(static_cast<std::uint16_t>(bits));
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float value = h;
    if (exponent == 31) {
      REQUIRE((mantissa == 0 ? std::isinf(value) : std::isnan(value)));
    } else {
      const double expected =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      REQUIRE(std::fabs(static_cast<double>(value)) == expected);
    }
    REQUIRE(std::signbit(value) == (bits >> 15 != 0));
    if (!std::isnan(value)) REQUIRE(fp16(value).bits == bits);
  }
}

namespace {
/// Rounds to `digits` significant bits with least exponent `low` in double, ties to even.
double rounded(double x, int digits, int low) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - digits, low));
  return std::nearbyint(x / unit) * unit;
}
}  // namespace

TEST_CASE("f32 to bf16 and fp16 rounds to nearest even") {
  std::uint32_t x = 1;
  for (int i = 0; i < 2'000'000; ++i) {
    x = x * 1664525u + 1013904223u;
    // Every third pattern lies near the middle between two narrow values, where ties and carries are.
    std::uint32_t bits = x;
    if (i % 3 == 1) bits = (x & 0xffff0000u) | (0x7ffeu + x % 4);
    if (i % 3 == 2) bits = (x & 0xffffe000u) | (0x0ffeu + x % 4);
    const float f = std::bit_cast<float>(bits);
    if (std::isnan(f)) {
      REQUIRE(std::isnan(static_cast<float>(bf16(f))));
      REQUIRE(std::isnan(static_cast<float>(fp16(f))));
      continue;
    }
    const double exact = static_cast<double>(f);
    double brief = std::fabs(f) < 0x1p-126f ? std::copysign(0.0, exact) : rounded(exact, 8, -133);
    if (std::fabs(brief) >= 0x1p128) brief = std::copysign(INFINITY, brief);
    double half = rounded(exact, 11, -24);
    if (std::fabs(half) >= 65536) half = std::copysign(INFINITY, half);
    REQUIRE(static_cast<double>(static_cast<float>(bf16(f))) == brief);
    REQUIRE(static_cast<double>(static_cast<float>(fp16(f))) == half);
  }
}

TEST_CASE("views") {
  float numbers[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const matrix_view<float> m(numbers, 3, 3, 4);
  CHECK(m(2, 1) == 9);
  CHECK(transpose(m)(1, 2) == 9);
  CHECK(transpose(transpose(m))(2, 1) == 9);
  CHECK(m.rows_from(1, 2)(0, 0) == 4);
  CHECK(m.cols_from(2, 1)(1, 0) == 6);
  const matrix_view<const float> c = m;
  CHECK(any_matrix(c).type == dtype::f32);
  CHECK(dtype_of<const bf16> == dtype::bf16);
}

namespace {
/// Arguments of every operation; T is the type of what it writes.
template <class T>
struct arguments {
  matrix_view<const float> in;
  matrix_view<T> out;
  matrix_view<float> other;
  std::span<float> sums;
  std::span<const std::int32_t> targets;
  std::span<const sequence> rows;
};

#define CHECK_WRITES(name, ...)                             \
  template <class T>                                        \
  concept writes_##name = requires(const arguments<T>& a) { \
    __VA_ARGS__;                                            \
  };                                                        \
  static_assert(writes_##name<float> && !writes_##name<const float>)

CHECK_WRITES(activate, activate(a.in, a.out, activation::gelu));
CHECK_WRITES(activate_backward, activate_backward(a.in, a.in, a.out, activation::gelu));
CHECK_WRITES(gelu, gelu(a.in, a.out));
CHECK_WRITES(gelu_backward, gelu_backward(a.in, a.in, a.out));
CHECK_WRITES(convert, convert(a.in, a.out));
CHECK_WRITES(softmax, softmax(a.in, a.out));
CHECK_WRITES(softmax_backward, softmax_backward(a.in, a.in, a.out));
CHECK_WRITES(layernorm, layernorm(a.in, a.sums, a.sums, 0.0f, a.out));
CHECK_WRITES(layernorm_narrow, layernorm_outputs{.narrow = a.out});
CHECK_WRITES(layernorm_backward,
             layernorm_backward(a.in, a.in, a.sums, a.sums, a.sums, a.out, a.sums, a.sums));
CHECK_WRITES(dropout, dropout(a.in, a.out, dropout_spec{}));
CHECK_WRITES(dropout_backward, dropout_backward(a.in, a.out, dropout_spec{}));
CHECK_WRITES(fused_sum, dropout_residual_layernorm(a.in, a.in, a.sums, a.sums, 0.0f, {}, a.out, a.other));
CHECK_WRITES(fused_y, dropout_residual_layernorm(a.in, a.in, a.sums, a.sums, 0.0f, {}, a.other, a.out));
CHECK_WRITES(fused_backward_dx, dropout_residual_layernorm_backward(a.in, a.in, a.sums, a.sums, a.sums, {},
                                                                    a.out, a.other, a.sums, a.sums));
CHECK_WRITES(fused_backward_dresidual,
             dropout_residual_layernorm_backward(a.in, a.in, a.sums, a.sums, a.sums, {}, a.other, a.out,
                                                 a.sums, a.sums));
CHECK_WRITES(embedding, embedding(embedding_tokens{}, embedding_tables{}, a.out));
CHECK_WRITES(embedding_gradients, embedding_gradients{.word = a.out, .position = a.out, .type = a.out});
CHECK_WRITES(embedded_sum, embedding_layernorm_dropout({}, {}, a.sums, a.sums, 0.0f, {}, a.out, a.other));
CHECK_WRITES(embedded_y, embedding_layernorm_dropout({}, {}, a.sums, a.sums, 0.0f, {}, a.other, a.out));
CHECK_WRITES(embedded_backward, embedding_layernorm_dropout_backward(a.in, {}, a.in, a.sums, a.sums, a.sums,
                                                                     {}, a.out, a.sums, a.sums, {}));
CHECK_WRITES(cross_entropy, cross_entropy(a.in, a.targets, {}, a.out));
CHECK_WRITES(attention, attention(a.in, a.rows, a.out, a.sums, attention_options{}));
CHECK_WRITES(attention_backward,
             attention_backward(a.in, a.in, a.in, a.sums, a.rows, a.out, attention_options{}));
CHECK_WRITES(gemm_preactivation, epilogue{.preactivation = a.out});
CHECK_WRITES(any_output, any_output(a.out));
static_assert(sizeof(any_output) == sizeof(any_matrix));
static_assert(!std::is_convertible_v<any_matrix, any_output>);  // a view of const elements may be behind it
}  // namespace

TEST_CASE("what an any_output refers to") {
  float numbers[6] = {};
  const any_output out = matrix_view<float>(numbers, 2, 2, 3);
  CHECK((out.data == numbers && out.rows == 2 && out.cols == 2 && out.stride == 3 && out.type == dtype::f32));
  CHECK(any_output(any_matrix(out)).data == numbers);
  CHECK(!any_output());
}

// -Wextra warns of a member that is left out and has no default.
TEST_CASE("options and tokens filled in part") {
  CHECK(attention_options{.heads = 2}.dropout.p == 0);
  CHECK(cross_entropy_options{.ignore_outside = true}.lengths.empty());
  CHECK(embedding_tokens{.word_ids = {}}.sequences.empty());
  CHECK(embedding_tables{.word = {}}.type.rows == 0);
  CHECK(embedding_gradients{.word = {}}.type.rows == 0);
  CHECK(sequence{.rows = 10}.key_count() == 10);
  CHECK(sequence{.rows = 10, .keys = 0}.key_count() == 0);
}

TEST_CASE("error texts") {
  CHECK_THROWS_WITH_AS(detail::require_equal("gemm", "b.rows", 768, "a.cols", 767),
                       "gemm: b.rows 768 != a.cols 767", error);
  float x = 0;
  CHECK_THROWS_WITH_AS(detail::require_plain("softmax", "x", matrix_view<float>(&x, 2, 4, 3)),
                       "softmax: x.stride 3 < 4, its row length", error);
  CHECK_THROWS_WITH_AS(detail::require_plain("softmax", "x", matrix_view<float>(nullptr, 2, 4)),
                       "softmax: x.data is null for 2 x 4", error);
  CHECK_THROWS_WITH_AS(detail::require_plain("softmax", "x", matrix_view<float>(&x, -1, 4)),
                       "softmax: x has a negative size: -1 x 4", error);
}
