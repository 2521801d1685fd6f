// activate, activate_backward, gelu, column_sum and convert against reference/activation.hpp.
#include <einkorn/activation.hpp>
#include <einkorn/reference/activation.hpp>

#include <string>
#include <vector>

#include "support.hpp"

namespace activation_tests {

using namespace einkorn;
using einkorn::index;  // not strings.h's
using test::guarded_buffer;
using test::guarded_matrix;

constexpr activation all[] = {activation::none, activation::gelu, activation::gelu_tanh, activation::relu,
                              activation::tanh};
const char* name_of(activation act) {
  constexpr const char* names[] = {"none", "gelu", "gelu_tanh", "relu", "tanh"};
  return names[static_cast<int>(act)];
}

struct shape {
  index rows, cols, padding, slack;
};
std::vector<shape> shapes() {
  std::vector<shape> result = {{0, 5, 0, 0}, {3, 0, 0, 0}, {1, 1, 0, 0}, {33, 65, 3, 1}, {65, 7, 0, 0}};
  for (index cols = 1; cols <= 34; cols += test::quick() ? 11 : 1)
    result.push_back({3, cols, cols % 3, cols % 4});
  if (!test::quick()) {
    result.push_back({5, 4099, 0, 0});   // more than a chunk of columns
    result.push_back({2100, 17, 1, 0});  // blocks of more than 32 rows
    result.push_back({2, 33000, 5, 0});  // more than a piece
    result.push_back({300, 300, 0, 0});  // contiguous: all elements as one row
  }
  return result;
}

/// Values whose activations are interesting: most in [-8, 8], and the special ones.
template <class T>
void fill(const matrix_view<T>& x, std::uint64_t seed) {
  test::random_numbers random(seed);
  constexpr float specials[] = {0.0f, -0.0f, 1e-3f, 20.0f, -20.0f, 1e-20f, 60000.0f, -60000.0f};
  for (index row = 0; row < x.rows; ++row)
    for (index col = 0; col < x.cols; ++col)
      x(row, col) = T(random.below(50) == 0 ? specials[random.below(8)] : 8 * random.real());
}

double ulp(double value) { return std::abs(value) < 0x1p-126 ? 0x1p-149 : std::abs(value) * 0x1p-23; }

/// What the contract allows for f or f' of size `exact`.
double bound_of(activation act, bool derivative, double exact) {
  switch (act) {
    case activation::gelu:
    case activation::gelu_tanh:
      return 2 * ulp(exact) + 3e-8;
    case activation::tanh:
      return 2.5 * ulp(exact) + (derivative ? 5e-7 : 0);
    default:
      return 0;
  }
}
template <class T>
double rounding(double exact) {
  return test::eps_of<T> * std::abs(exact) * (std::is_same_v<T, float> ? 0 : 1) +
         (std::is_same_v<T, float> ? 0 : test::tiny_of<T>);
}

/// The first element that is wrong, or an empty string. Overflow to infinity of a narrow type is right.
template <class T>
std::string check_forward(const matrix_view<T>& y, const std::vector<double>& exact, activation act) {
  for (index row = 0; row < y.rows; ++row)
    for (index col = 0; col < y.cols; ++col) {
      const double e = exact[static_cast<std::size_t>(row * y.cols + col)];
      const double got = static_cast<double>(static_cast<float>(y(row, col)));
      const double expected = static_cast<double>(static_cast<float>(T(static_cast<float>(e))));
      if (std::isinf(expected) && got == expected) continue;
      if (!test::within(got, e, bound_of(act, false, e) * 1.01 + rounding<T>(e)))
        return "element " + std::to_string(row) + ", " + std::to_string(col) + " is " + std::to_string(got) +
               ", expected " + std::to_string(e);
    }
  return {};
}

template <class X, class Y>
void test_forward() {
  for (const shape& s : shapes()) {
    guarded_matrix<X> x(s.rows, s.cols, s.padding, s.slack);
    guarded_matrix<Y> y(s.rows, s.cols, s.padding / 2, s.slack / 2);
    fill(x.view(), static_cast<std::uint64_t>(s.rows * 1000 + s.cols));
    for (const activation act : all) {
      INFO("act ", name_of(act), " rows ", s.rows, " cols ", s.cols);
      y.memory.fill_with_nan();
      activate(x.const_view(), y.view(), act, serial_executor());
      CHECK(check_forward(y.view(), reference::activate(x.view(), act), act) == "");
      CHECK(y.intact());
    }
  }
}

TEST_CASE("forward: every pair of types") {
  test::on_each_level([](isa) {
    test_forward<float, float>();
    test_forward<bf16, bf16>();
    test_forward<fp16, fp16>();
    test_forward<float, bf16>();
    test_forward<bf16, float>();
    test_forward<float, fp16>();
    test_forward<fp16, float>();
    test_forward<bf16, fp16>();
    test_forward<fp16, bf16>();
  });
}

template <class Dy, class Pre, class Dx>
void test_backward() {
  for (const shape& s : shapes()) {
    guarded_matrix<Dy> dy(s.rows, s.cols, s.padding, s.slack);
    guarded_matrix<Pre> pre(s.rows, s.cols, s.padding / 2, s.slack / 2);
    guarded_matrix<Dx> dx(s.rows, s.cols, 0, s.slack / 2);
    test::random_numbers random(7);
    test::fill_random(dy.view(), random, 2);
    fill(pre.view(), static_cast<std::uint64_t>(s.rows * 100 + s.cols));
    for (const activation act : all) {
      INFO("act ", name_of(act), " rows ", s.rows, " cols ", s.cols);
      const auto exact = reference::activate_backward(dy.view(), pre.view(), act);
      for (const bool with_db : {false, true}) {
        guarded_buffer<float> db(with_db ? s.cols : 0);
        for (float& v : db) v = 0.5f;
        dx.memory.fill_with_nan();
        activate_backward(dy.const_view(), pre.const_view(), dx.view(), act,
                          {db.data(), static_cast<std::size_t>(db.size())}, serial_executor());
        CHECK(dx.intact());
        CHECK(db.intact());
        bool right = true;
        std::vector<double> slack(static_cast<std::size_t>(s.cols), 0.0);
        for (index row = 0; row < s.rows; ++row)
          for (index col = 0; col < s.cols; ++col) {
            const double e = exact.dx[static_cast<std::size_t>(row * s.cols + col)];
            const double d = static_cast<double>(static_cast<float>(dy.view()(row, col)));
            const double slope = reference::activate_derivative(
                act, static_cast<double>(static_cast<float>(pre.view()(row, col))));
            const double bound = std::abs(d) * bound_of(act, true, slope) + 0x1p-24 * std::abs(e);
            if (!test::within(static_cast<double>(static_cast<float>(dx.view()(row, col))), e,
                              bound * 1.01 + rounding<Dx>(e)))
              right = false;
            slack[static_cast<std::size_t>(col)] +=
                bound +
                (static_cast<double>(detail::column_sum_block_rows(s.rows)) + 8) * 0x1p-24 * std::abs(e);
          }
        CHECK(right);
        for (index col = 0; col < db.size(); ++col)
          if (!test::within(static_cast<double>(db[col]), 0.5 + exact.db[static_cast<std::size_t>(col)],
                            slack[static_cast<std::size_t>(col)] * 1.01 + 1e-7))
            FAIL_CHECK("db " << col << " is " << db[col] << ", expected "
                             << 0.5 + exact.db[static_cast<std::size_t>(col)]);
      }
    }
  }
}

TEST_CASE("backward: types, column sums added to what is there") {
  test::on_each_level([](isa) {
    test_backward<float, float, float>();
    test_backward<bf16, bf16, bf16>();
    test_backward<fp16, fp16, fp16>();
    test_backward<float, bf16, bf16>();
    test_backward<bf16, float, fp16>();
  });
}

TEST_CASE("the reference's derivatives against central differences of the reference") {
  for (const activation act : all) {
    for (double x = -6.05; x < 6; x += 0.1) {
      const double h = 1e-5;
      const double slope = (reference::activate(act, x + h) - reference::activate(act, x - h)) / (2 * h);
      INFO("act ", name_of(act), " at ", x);
      CHECK(std::abs(slope - reference::activate_derivative(act, x)) < 1e-9);
    }
  }
}

TEST_CASE("infinity, NaN and in place") {
  test::on_each_level([](isa) {
    const float infinity = std::numeric_limits<float>::infinity();
    const float x[] = {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), -0.0f, 1e30f, -1e30f};
    float y[6];
    const matrix_view<const float> in(x, 1, 6);
    const matrix_view<float> out(y, 1, 6);
    for (const gelu_form form : {gelu_form::erf, gelu_form::tanh}) {
      gelu(in, out, form);
      CHECK(y[0] == infinity);
      CHECK(y[1] == 0.0f);
      CHECK(std::signbit(y[1]));
      CHECK(std::isnan(y[2]));
      CHECK(y[3] == 0.0f);
      CHECK(y[4] == 1e30f);
      CHECK(y[5] == 0.0f);
      const float ones[] = {1, 1, 1, 1, 1, 1};
      gelu_backward(matrix_view<const float>(ones, 1, 6), in, out, {}, form);
      CHECK(y[0] == 1.0f);
      CHECK(y[1] == 0.0f);
      CHECK(std::isnan(y[2]));
      CHECK(y[3] == 0.5f);
    }
    activate(in, out, activation::tanh);
    CHECK(y[0] == 1.0f);
    CHECK(y[1] == -1.0f);
    CHECK(std::isnan(y[2]));
    CHECK(std::signbit(y[3]));
    activate(in, out, activation::relu);
    CHECK(std::isnan(y[2]));
    CHECK(y[1] == 0.0f);
    const float ones[] = {1, 1, 1, 1, 1, 1};
    activate_backward(matrix_view<const float>(ones, 1, 6), in, out, activation::relu);
    CHECK(y[0] == 1.0f);
    CHECK(y[1] == 0.0f);
    CHECK(std::isnan(y[2]));
    // One row: strides mean nothing.
    activate(matrix_view<float>(y, 1, 6, 6), matrix_view<float>(y, 1, 6, 11), activation::relu);
    CHECK_THROWS_AS(
        activate(matrix_view<float>(y, 1, 3, 0), matrix_view<float>(y + 2, 1, 3, 0), activation::relu),
        error);

    std::vector<float> a(1000), b(1000), c(1000);
    test::random_numbers random(3);
    for (float& v : a) v = 4 * random.real();
    b = a;
    gelu(matrix_view<float>(a.data(), 10, 100), matrix_view<float>(c.data(), 10, 100));
    gelu(matrix_view<float>(b.data(), 10, 100), matrix_view<float>(b.data(), 10, 100));
    CHECK(b == c);
    gelu_backward(matrix_view<float>(a.data(), 10, 100), matrix_view<float>(c.data(), 10, 100),
                  matrix_view<float>(b.data(), 10, 100));
    gelu_backward(matrix_view<float>(a.data(), 10, 100), matrix_view<float>(c.data(), 10, 100),
                  matrix_view<float>(a.data(), 10, 100));
    CHECK(a == b);
  });
}

TEST_CASE("conversion: every pattern of the narrow types, and rounding") {
  test::on_each_level([](isa) {
    std::vector<bf16> brief(65536), brief_back(65536);
    std::vector<fp16> half(65536), half_back(65536);
    std::vector<float> wide(65536);
    for (std::uint32_t i = 0; i < 65536; ++i) {
      brief[i].bits = static_cast<std::uint16_t>(i);
      half[i].bits = static_cast<std::uint16_t>(i);
    }
    const matrix_view<float> f(wide.data(), 256, 256);
    convert(matrix_view<bf16>(brief.data(), 256, 256), f);
    convert(f, matrix_view<bf16>(brief_back.data(), 256, 256));
    for (std::uint32_t i = 0; i < 65536; ++i)
      if (brief_back[i].bits != bf16(wide[i]).bits) FAIL_CHECK("bf16 pattern " << i);
    convert(matrix_view<fp16>(half.data(), 256, 256), f);
    convert(f, matrix_view<fp16>(half_back.data(), 256, 256));
    for (std::uint32_t i = 0; i < 65536; ++i)
      if (half_back[i].bits != fp16(wide[i]).bits) FAIL_CHECK("fp16 pattern " << i);
  });
}

TEST_CASE("column sums: replaced or added to, and the same bits for any number of threads") {
  test::on_each_level([](isa) {
    for (const shape& s : shapes()) {
      guarded_matrix<bf16> x(s.rows, s.cols, s.padding, s.slack);
      test::random_numbers random(11);
      test::fill_random(x.view(), random, 3);
      const std::vector<double> exact = reference::column_sum(x.view());
      guarded_buffer<float> out(s.cols), again(s.cols);
      const auto span_of = [](const guarded_buffer<float>& b) {
        return std::span<float>(b.data(), static_cast<std::size_t>(b.size()));
      };
      column_sum(x.view(), span_of(out), false, serial_executor());
      for (index col = 0; col < s.cols; ++col)
        if (!test::within(static_cast<double>(out[col]), exact[static_cast<std::size_t>(col)],
                          (static_cast<double>(detail::column_sum_block_rows(s.rows)) + 8) * 0x1p-24 * 3 *
                              static_cast<double>(s.rows)))
          FAIL_CHECK("column " << col << " of " << s.rows << " x " << s.cols);
      CHECK(out.intact());
      test::with_thread_counts([&](const executor& exec) {
        again.fill_with_nan();
        column_sum(x.view(), span_of(again), false, exec);
        CHECK(test::same_bits(out, again));
      });
      column_sum(x.view(), span_of(again), true, serial_executor());
      for (index col = 0; col < s.cols; ++col) CHECK(again[col] == out[col] + out[col]);
    }
  });
}

TEST_CASE("an executor may do other work between tasks, on the thread that waits") {
  test::on_each_level([](isa) {
    std::vector<float> x(300 * 70, 1.0f), sums(70), other(70);
    const matrix_view<const float> in(x.data(), 300, 70);
    struct busy {
      matrix_view<const float> in;
      std::span<float> other;
      static void run(void* context, index tasks, void (*body)(void*, index), void* arg) {
        const busy& self = *static_cast<const busy*>(context);
        for (index task = 0; task < tasks; ++task) {
          body(arg, task);
          column_sum(self.in, self.other, false, serial_executor());
        }
      }
    } work{in, other};
    column_sum(in, sums, false, {&work, &busy::run, 2});
    for (const float s : sums) CHECK(s == 300.0f);
  });
}

TEST_CASE("the same bits for any number of threads") {
  test::on_each_level([](isa) {
    for (const shape& s : {shape{130, 1100, 0, 0}, shape{70, 33, 2, 1}}) {
      guarded_matrix<float> dy(s.rows, s.cols, s.padding), pre(s.rows, s.cols, s.padding);
      test::random_numbers random(5);
      test::fill_random(dy.view(), random);
      test::fill_random(pre.view(), random, 5);
      guarded_matrix<bf16> dx(s.rows, s.cols), y(s.rows, s.cols), first_dx(s.rows, s.cols),
          first_y(s.rows, s.cols);
      guarded_buffer<float> db(s.cols), first_db(s.cols);
      for (float& v : first_db) v = 1;
      const auto run = [&](const guarded_matrix<bf16>& g, const guarded_matrix<bf16>& a,
                           const guarded_buffer<float>& sums, const executor& exec) {
        gelu(pre.view(), a.view(), gelu_form::erf, exec);
        gelu_backward(dy.view(), pre.view(), g.view(), {sums.data(), static_cast<std::size_t>(sums.size())},
                      gelu_form::erf, exec);
      };
      run(first_dx, first_y, first_db, serial_executor());
      test::with_thread_counts([&](const executor& exec) {
        dx.memory.fill_with_nan();
        y.memory.fill_with_nan();
        for (float& v : db) v = 1;
        run(dx, y, db, exec);
        CHECK(test::same_bits(dx.memory, first_dx.memory));
        CHECK(test::same_bits(y.memory, first_y.memory));
        CHECK(test::same_bits(db, first_db));
      });
    }
  });
}

TEST_CASE("the checker fails a wrong kernel and a NaN kernel") {
  guarded_matrix<float> x(3, 20), y(3, 20);
  fill(x.view(), 1);
  const auto exact = reference::activate(x.view(), activation::gelu);
  gelu(x.view(), y.view());
  REQUIRE(check_forward(y.view(), exact, activation::gelu) == "");
  gelu(x.view(), y.view(), gelu_form::tanh);  // the other form differs by up to 5e-4
  CHECK(check_forward(y.view(), exact, activation::gelu) != "");
  gelu(x.view(), y.view());
  y.view()(2, 19) = std::numeric_limits<float>::quiet_NaN();
  CHECK(check_forward(y.view(), exact, activation::gelu) != "");
}

TEST_CASE("errors name function, argument and values, and nothing is written") {
  std::vector<float> x(12, 1.0f), y(12, 7.0f), db(3);
  const matrix_view<float> a(x.data(), 3, 4), b(y.data(), 3, 4), narrower(y.data(), 3, 3, 4);
  CHECK_THROWS_WITH_AS(gelu(a, narrower), "activate: y.cols 3 != x.cols 4", error);
  CHECK_THROWS_WITH_AS(gelu_backward(a, a, b, db), "activate_backward: db.size 3 != pre.cols 4", error);
  CHECK_THROWS_WITH_AS(column_sum(a, db), "column_sum: out.size 3 != x.cols 4", error);
  CHECK_THROWS_WITH_AS(convert(a, transpose(b)), "convert: y is transposed, and this argument may not be",
                       error);
  CHECK_THROWS_WITH_AS(gelu(matrix_view<float>(x.data(), 2, 4), matrix_view<float>(x.data() + 1, 2, 4)),
                       "activate: y overlaps x without being the same matrix", error);
  std::vector<std::int32_t> integers(12);
  CHECK_THROWS_WITH_AS(convert(matrix_view<std::int32_t>(integers.data(), 3, 4), b),
                       "convert: x is i32, expected f32, bf16 or fp16", error);
  for (const float v : y) CHECK(v == 7.0f);
}

}  // namespace activation_tests
