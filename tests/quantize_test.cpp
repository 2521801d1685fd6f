// Bytes and scales against reference/quantize.hpp, int8 products with dequantisation against
// reference/gemm.hpp, at every level, tiles included.
#include <einkorn/quantize.hpp>
#include <einkorn/reference/quantize.hpp>
#include <einkorn/testing/amx_emulator.hpp>

#include <string>
#include <vector>

#include "gemm_check.hpp"

namespace quantize_tests {

using namespace einkorn;
using einkorn::index;  // not strings.h's
using test::error_of;
using test::guarded_buffer;
using test::guarded_matrix;

/// Bytes, scales and zeros of a matrix; everything NaN or 255 before.
template <class Byte>
struct quantized {
  guarded_matrix<Byte> q;
  guarded_buffer<float> scales;
  guarded_buffer<std::int32_t> zeros, sums;
  quantized(index rows, index cols, index padding)
      : q(rows, cols, padding), scales(rows), zeros(rows), sums(rows) {}
  quantized_rows rows() const { return {q.view(), span(scales), span(zeros)}; }
  template <class T>
  static std::span<T> span(const guarded_buffer<T>& b) {
    return {b.data(), static_cast<std::size_t>(b.size())};
  }
  template <class T>
  void take(const matrix_view<T>& x, const executor& exec = serial_executor()) {
    if constexpr (std::is_same_v<Byte, std::uint8_t>)
      quantize_rows(x, rows(), exec);
    else
      quantize_rows(x, q.view(), span(scales), span(sums), exec);
  }
};

/// Rows of which the first few are what could go wrong.
template <class T>
guarded_matrix<T> some_rows(index rows, index cols) {
  test::random_numbers random(5);
  guarded_matrix<T> x(rows, cols, 2, 1);
  const float infinity = std::numeric_limits<float>::infinity();
  for (index r = 0; r < rows; ++r) {
    for (index c = 0; c < cols; ++c) {
      const float v = random.real();
      x.view()(r, c) = T(r == 0                    ? 0
                         : r == 1                  ? std::abs(v)   // no negative: zero is 0
                         : r == 2                  ? -std::abs(v)  // no positive: zero is 255
                         : r == 3                  ? 1e-38f * v    // below the smallest range
                         : r == 4                  ? 3e38f * v     // hi - lo overflows f32; fp16: infinite
                         : r == 5 && c == cols / 2 ? infinity
                         : r == 6 && c == cols - 1 ? std::numeric_limits<float>::quiet_NaN()
                         : r == 7                  ? v + 10  // far from 0
                         : r == 8                  ? -0.0f
                                                   : v);
    }
  }
  return x;
}

/// What is wrong with the bytes of x, or nothing.
template <class Byte, class T>
std::string check_rows(const guarded_matrix<T>& x, const quantized<Byte>& got) {
  constexpr bool affine = std::is_same_v<Byte, std::uint8_t>;
  for (index r = 0; r < x.rows; ++r) {
    const auto expected = reference::quantize_row(x.const_view(), r, affine);
    const std::string at = " of row " + std::to_string(r);
    if (std::isnan(expected.scale) ? !std::isnan(got.scales[r]) : got.scales[r] != expected.scale)
      return "scale" + at;
    if (affine ? got.zeros[r] != expected.zero : got.sums[r] != expected.sum) return "zero or sum" + at;
    for (index c = 0; c < x.cols; ++c) {
      const int q = got.q.view()(r, c);
      if (q != expected.q[static_cast<std::size_t>(c)]) return "byte " + std::to_string(c) + at;
      const double scale = static_cast<double>(got.scales[r]), value = static_cast<float>(x.view()(r, c));
      if (scale > 0 && !(std::abs(value - scale * (q - (affine ? expected.zero : 0))) <= 0.501 * scale))
        return "error of element " + std::to_string(c) + at;
    }
  }
  return got.q.intact() && got.scales.intact() && got.zeros.intact() && got.sums.intact() ? "" : "bounds";
}

template <class Byte, class T>
void check_shapes() {
  for (const index cols : {1, 3, 4, 7, 8, 15, 16, 17, 33, 64, 100, 768}) {
    const guarded_matrix<T> x = some_rows<T>(cols == 768 ? 300 : 12, cols);
    test::on_each_level([&](isa) {
      CAPTURE(cols);
      quantized<Byte> first(x.rows, cols, 3);
      first.take(x.const_view());
      CHECK(check_rows(x, first) == "");
      test::with_thread_counts([&](const executor& exec) {
        quantized<Byte> again(x.rows, cols, 3);
        again.take(x.const_view(), exec);
        CHECK(test::same_bits(again.q.memory, first.q.memory));
        CHECK(test::same_bits(again.scales, first.scales));
      });
    });
  }
}

TEST_CASE("bytes with a zero, of every type") {
  const testing::amx_emulator emulator;
  check_shapes<std::uint8_t, float>();
  check_shapes<std::uint8_t, bf16>();
  check_shapes<std::uint8_t, fp16>();
}
TEST_CASE("symmetric bytes, of every type") {
  const testing::amx_emulator emulator;
  check_shapes<std::int8_t, float>();
  check_shapes<std::int8_t, bf16>();
  check_shapes<std::int8_t, fp16>();
}

/// Operands of an int8 product and its scales; sums of B's columns as they are.
template <class A>
struct int8_product {
  test::operand<A> a;
  test::operand<std::int8_t> b;
  guarded_buffer<float> row_scale, col_scale, bias;
  guarded_buffer<std::int32_t> row_zero, col_sum;

  int8_product(const test::gemm_shape& s, test::random_numbers& random)
      : a(s.rows, s.depth, false, 1, random),
        b(s.depth, s.cols, true, 0, random),
        row_scale(s.rows),
        col_scale(s.cols),
        bias(s.cols),
        row_zero(s.rows),
        col_sum(s.cols) {
    test::fill_random(row_scale, random, 0.01f);
    test::fill_random(col_scale, random, 0.1f);
    test::fill_random(bias, random);
    for (auto& zero : row_zero) zero = static_cast<std::int32_t>(random.below(256));
    for (index c = 0; c < s.cols; ++c) {
      col_sum[c] = 0;
      for (index k = 0; k < s.depth; ++k) col_sum[c] += b.view(k, c);
    }
  }
  dequantization scales(bool zeros) const {
    dequantization d{row_scale.data(), col_scale.data(), nullptr, nullptr};
    if (zeros) d.row_zero = row_zero.data(), d.col_sum = col_sum.data();
    return d;
  }
};

/// The sum is exact; it is rounded to f32, multiplied by two scales whose product is rounded too, and enters
/// an epilogue of a few more roundings.
template <class C>
int wrong_elements(const guarded_matrix<C>& c, const std::vector<double>& exact,
                   const std::vector<double>& magnitude, double slope) {
  int wrong = c.intact() ? 0 : 1000000;
  for (index row = 0; row < c.rows; ++row)
    for (index col = 0; col < c.cols; ++col) {
      const auto i = static_cast<std::size_t>(row * c.cols + col);
      const double bound = slope * 8 * 0x1p-24 * magnitude[i] + 8 * 0x1p-23 * 10 +
                           test::eps_of<C> * std::abs(exact[i]) + test::tiny_of<C>;
      wrong += !test::within(static_cast<double>(static_cast<float>(c.view()(row, col))), exact[i], bound);
    }
  return wrong;
}

template <class A, class C>
void check_product(const test::gemm_shape& s, bool zeros, activation act, bool whole_epilogue) {
  test::random_numbers random(8);
  const int8_product<A> p(s, random);
  const test::operand<C> before(s.rows, s.cols, false, 2, random);
  const test::operand<bf16> residual(s.rows, s.cols, false, 1, random);
  epilogue e{.bias = p.bias.data(), .act = act, .dequantize = p.scales(zeros)};
  if (whole_epilogue) {
    e.alpha = 0.75f;
    e.beta = -0.5f;
    e.residual = residual.view;
  }
  const auto expected = reference::gemm(p.a.view, p.b.view, before.view, e);
  std::vector<C> first;
  test::on_each_level([&](isa level) {
    for (const bool packed : {false, true}) {
      CAPTURE(s.rows);
      CAPTURE(s.cols);
      CAPTURE(s.depth);
      CAPTURE(packed);
      guarded_matrix<C> c(s.rows, s.cols, 2);
      guarded_matrix<float> pre(s.rows, s.cols);
      e.preactivation = pre.view();
      if (whole_epilogue)
        for (index r = 0; r < s.rows; ++r)
          for (index k = 0; k < s.cols; ++k) c.view()(r, k) = before.view(r, k);
      if (packed)
        gemm(p.a.view, pack(p.b.view), c.view(), e);
      else
        gemm(p.a.view, p.b.view, c.view(), e);
      CHECK(wrong_elements(c, expected.c, expected.magnitude, test::lipschitz(act)) == 0);
      CHECK(wrong_elements(pre, expected.preactivation, expected.magnitude, 1) == 0);
      if (act == activation::none && !whole_epilogue) {
        // No fused multiply-add and no polynomial: the same bits everywhere.
        std::vector<C> values;
        for (index r = 0; r < s.rows; ++r)
          for (index k = 0; k < s.cols; ++k) values.push_back(c.view()(r, k));
        if (first.empty()) first = values;
        CHECK((values.empty() || std::memcmp(first.data(), values.data(), values.size() * sizeof(C)) == 0));
      }
      static_cast<void>(level);
    }
  });
}

const test::gemm_shape shapes[] = {{1, 1, 1},   {7, 19, 5}, {29, 67, 33},   {33, 65, 65},
                                   {1, 48, 40}, {9, 70, 0}, {15, 33, 2100}, {64, 96, 128}};

TEST_CASE("int8 products dequantised into every type, with every epilogue") {
  const testing::amx_emulator emulator;
  for (const test::gemm_shape& s : shapes) {
    for (const bool zeros : {false, true}) {
      check_product<std::uint8_t, float>(s, zeros, activation::none, false);
      check_product<std::int8_t, bf16>(s, zeros, activation::none, false);
      check_product<std::uint8_t, fp16>(s, zeros, activation::relu, false);
    }
    check_product<std::uint8_t, bf16>(s, true, activation::gelu, false);
    check_product<std::int8_t, float>(s, true, activation::gelu_tanh, true);
    check_product<std::uint8_t, fp16>(s, true, activation::none, true);
  }
  if (!test::quick()) check_product<std::uint8_t, bf16>({523, 70, 41}, true, activation::none, false);
}

TEST_CASE("the integer part is exact, and wraps modulo 2^32") {
  const testing::amx_emulator emulator;
  test::on_each_level([](isa) {
    // 255 * 127 * 70000 - 255 * 127 * 70000 = 0 though both wrap; without the zero, 2266950000 - 2^32.
    const index depth = 70000;
    guarded_matrix<std::uint8_t> a(2, depth);
    guarded_matrix<std::int8_t> b(depth, 1);
    for (auto& x : a.memory) x = 255;
    for (auto& x : b.memory) x = 127;
    const std::int32_t zeros[2] = {255, 0}, sum[1] = {static_cast<std::int32_t>(127 * depth)};
    guarded_matrix<float> c(2, 1);
    gemm(a.const_view(), b.const_view(), c.view(), {.dequantize = {nullptr, nullptr, zeros, sum}});
    CHECK(c.view()(0, 0) == 0);
    CHECK(c.view()(1, 0) == static_cast<float>(2266950000 - 4294967296));
  });
}

TEST_CASE("the same bits for any number of threads") {
  const testing::amx_emulator emulator;
  test::random_numbers random(3);
  const test::gemm_shape s{test::quick() ? 60 : 200, 150, 90};
  const int8_product<std::uint8_t> p(s, random);
  test::on_each_level([&](isa) {
    guarded_matrix<bf16> first(s.rows, s.cols), c(s.rows, s.cols);
    const epilogue e{.bias = p.bias.data(), .act = activation::gelu, .dequantize = p.scales(true)};
    gemm(p.a.view, p.b.view, first.view(), e, serial_executor());
    test::with_thread_counts([&](const executor& exec) {
      gemm(p.a.view, p.b.view, c.view(), e, exec);
      CHECK(test::same_bits(c.memory, first.memory));
    });
  });
}

TEST_CASE("a linear layer on bytes is the layer, but for what the bytes lose") {
  const testing::amx_emulator emulator;
  const index rows = 37, in = 96, out = 70;
  test::random_numbers random(12);
  const test::operand<float> x(rows, in, false, 1, random), w(out, in, false, 0, random);
  test::on_each_level([&](isa) {
    const quantized_weights w8(any_matrix(w.view));
    CHECK(w8.depth() == in);
    CHECK(w8.channels() == out);
    quantized<std::uint8_t> bytes(rows, in, 0);
    bytes.take(x.view);
    guarded_matrix<float> y(rows, out);
    gemm(bytes.rows(), w8, y.view());
    int wrong = 0;
    for (index r = 0; r < rows; ++r)
      for (index c = 0; c < out; ++c) {
        double exact = 0, bound = 1e-5;
        const double sx = 0.501 * static_cast<double>(bytes.scales[r]),
                     sw = 0.501 * static_cast<double>(w8.scales()[c]);
        for (index k = 0; k < in; ++k) {
          const double xv = static_cast<double>(x.view(r, k)), wv = static_cast<double>(w.view(c, k));
          exact += xv * wv;
          bound += sx * std::abs(wv) + sw * std::abs(xv) + sx * sw;
        }
        wrong += !test::within(static_cast<double>(y.view()(r, c)), exact, bound);
      }
    CHECK(wrong == 0);
  });
}

TEST_CASE("sums of the greatest depth do not wrap") {
  const testing::amx_emulator emulator;
  test::on_each_level([](isa) {
    const index depth = quantized_weights::most_depth;
    guarded_matrix<float> x(2, depth), w(1, depth), y(2, 1);
    for (index k = 0; k < depth; ++k) {
      x.view()(0, k) = w.view()(0, k) = 1;
      x.view()(1, k) = -1;
    }
    quantized<std::uint8_t> bytes(2, depth, 0);
    bytes.take(x.const_view());
    gemm(bytes.rows(), quantized_weights(any_matrix(w.const_view())), y.view());
    CHECK(std::abs(y.view()(0, 0) - depth) <= 0.1);
    CHECK(std::abs(y.view()(1, 0) + depth) <= 0.1);
  });
}

TEST_CASE("scales whose product leaves the range of f32") {
  const testing::amx_emulator emulator;
  test::on_each_level([](isa) {
    guarded_matrix<float> x(1, 2), w(2, 2), y(1, 2);
    x.view()(0, 0) = 1e22f;
    x.view()(0, 1) = w.view()(0, 0) = 0;
    w.view()(0, 1) = w.view()(1, 1) = 1e22f;
    w.view()(1, 0) = 1e-30f;
    quantized<std::uint8_t> bytes(1, 2, 0);
    bytes.take(x.const_view());
    gemm(bytes.rows(), quantized_weights(any_matrix(w.const_view())), y.view());
    CHECK(y.view()(0, 0) == 0);

    const index depth = 768;
    guarded_matrix<float> small(1, depth), both(1, 1);
    for (float& v : small.memory) v = 1e-19f;
    quantized<std::uint8_t> small_bytes(1, depth, 0);
    small_bytes.take(small.const_view());
    gemm(small_bytes.rows(), quantized_weights(any_matrix(small.const_view())), both.view());
    CHECK(std::abs(both.view()(0, 0) / 7.68e-36f - 1) < 1e-5f);
  });
}

TEST_CASE("a row that is not finite makes its own row of the result NaN, and no other") {
  const testing::amx_emulator emulator;
  test::on_each_level([](isa) {
    guarded_matrix<float> x(3, 20), w(4, 20), y(3, 4);
    for (float& v : x.memory) v = 0.5f;
    for (float& v : w.memory) v = -0.25f;
    x.view()(1, 7) = std::numeric_limits<float>::infinity();
    quantized<std::uint8_t> bytes(3, 20, 0);
    bytes.take(x.const_view());
    gemm(bytes.rows(), quantized_weights(any_matrix(w.const_view())), y.view());
    for (index r = 0; r < 3; ++r)
      for (index c = 0; c < 4; ++c)
        CHECK((r == 1 ? std::isnan(y.view()(r, c)) : std::abs(y.view()(r, c) + 2.5f) < 0.01f));
  });
}

TEST_CASE("misuse is an error before anything is written") {
  guarded_matrix<float> x(3, 8), c(3, 5);
  for (float& v : x.memory) v = 1;
  quantized<std::uint8_t> out(3, 8, 0);
  quantized_rows rows = out.rows();
  rows.scales = rows.scales.first(2);
  CHECK(error_of([&] { quantize_rows(x.const_view(), rows); }) == "quantize_rows: scales.size 2 != x.rows 3");
  rows = out.rows();
  rows.q.cols = 7;
  CHECK(error_of([&] { quantize_rows(x.const_view(), rows); }) == "quantize_rows: q.cols 7 != x.cols 8");
  rows = out.rows();
  rows.q.data = reinterpret_cast<std::uint8_t*>(x.memory.data());
  CHECK(error_of([&] { quantize_rows(x.const_view(), rows); }) ==
        "quantize_rows: q overlaps x without being the same matrix");
  rows = out.rows();
  rows.scales = std::span(x.memory.data() + 20, 3);
  CHECK(error_of([&] { quantize_rows(x.const_view(), rows); }) == "quantize_rows: scales overlap x");
  rows = out.rows();
  rows.zeros = std::span(reinterpret_cast<std::int32_t*>(rows.q.data + 4), 3);
  CHECK(error_of([&] { quantize_rows(x.const_view(), rows); }) == "quantize_rows: zeros overlap q");
  CHECK(error_of([&] { quantize_rows(transpose(x.const_view()), out.rows()); }).find("x is transposed") !=
        std::string::npos);
  CHECK(error_of([&] {
          quantized_weights w(transpose(x.const_view()));
        }).find("quantized_weights: w is transposed") != std::string::npos);
  guarded_matrix<float> deep(1, quantized_weights::most_depth + 1);
  CHECK(error_of([&] { quantized_weights w(deep.const_view()); }) ==
        "quantized_weights: w.cols 66312, at most 66311 products fit into sums of 32 bits");
  for (const float v : x.memory) CHECK(v == 1);

  guarded_matrix<std::int8_t> b(8, 5);
  guarded_matrix<float> d(8, 5);
  guarded_matrix<std::int32_t> sums(3, 5);
  const float scale[8] = {};
  const std::int32_t zero[8] = {};
  const auto run = [&](const dequantization& how) {
    return error_of([&] { gemm(out.q.const_view(), b.const_view(), c.view(), {.dequantize = how}); });
  };
  CHECK(run({scale, nullptr, zero, nullptr}) ==
        "gemm: dequantize.row_zero and dequantize.col_sum go together");
  CHECK(error_of([&] { gemm(x.const_view(), d.const_view(), c.view(), {.dequantize = {scale}}); }) ==
        "gemm: dequantize is for products of int8");
  CHECK(error_of([&] {
          gemm(out.q.const_view(), b.const_view(), sums.view(), {.dequantize = {scale}});
        }).find("an i32 result takes no") != std::string::npos);
  CHECK(error_of([&] {
          gemm_batched(out.q.const_view().rows_from(0, 1), b.const_view(), c.view().rows_from(0, 1),
                       {3, 8, 0, 5}, {.dequantize = {scale}});
        }) == "gemm: dequantize is not for batches");
  for (const float v : c.memory) CHECK(std::isnan(v));
  // Without scales the integers themselves.
  for (auto& v : out.q.memory) v = 2;
  for (auto& v : b.memory) v = -3;
  CHECK(error_of([&] { gemm(out.q.const_view(), b.const_view(), c.view()); }) == "no error");
  for (const float v : c.memory) CHECK(v == -48);
}

}  // namespace quantize_tests
