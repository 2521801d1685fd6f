// cross_entropy against reference/loss.hpp.
#include <einkorn/loss.hpp>
#include <einkorn/reference/loss.hpp>

#include <string>
#include <vector>

#include "support.hpp"

namespace loss_tests {

using namespace einkorn;
using einkorn::index;  // not strings.h's
using test::guarded_matrix;

struct batch {
  std::vector<std::int32_t> targets, lengths;
  cross_entropy_options options;
  batch(index rows, index cols, bool with_lengths, std::uint64_t seed) {
    test::random_numbers random(seed);
    for (index row = 0; row < rows; ++row) {
      const index length = with_lengths ? random.below(cols + 1) : cols;
      lengths.push_back(static_cast<std::int32_t>(length));
      const bool ignored = length == 0 || row % 5 == 3;
      targets.push_back(
          static_cast<std::int32_t>(ignored ? (row % 2 == 0 ? -100 : cols) : random.below(length)));
    }
    options.ignore_outside = true;
    if (with_lengths) options.lengths = lengths;
    options.divisor = 2.5;
    options.scale = 3;
  }
};

double worst_gradient = 0, worst_loss = 0;  // of their bounds, in f32

/// The error of one row's log of a sum, relative error of its exponentials included.
double row_bound(index cols, double largest) {
  return (8 + static_cast<double>(cols) / 64 + 2 * largest) * 0x1p-23;
}

template <class T>
std::string check_gradient(const matrix_view<T>& dlogits, const reference::cross_entropy_result& exact,
                           const cross_entropy_options& o, double largest) {
  const double factor = static_cast<double>(o.scale) / o.divisor;
  for (index row = 0; row < dlogits.rows; ++row)
    for (index col = 0; col < dlogits.cols; ++col) {
      const double e = exact.dlogits[static_cast<std::size_t>(row * dlogits.cols + col)];
      const double got = static_cast<double>(static_cast<float>(dlogits(row, col)));
      const double softmax = e < 0 ? 1 : e;  // at the target 1 is subtracted from something of size 1
      const double bound =
          e == 0 ? 0
                 : factor * row_bound(dlogits.cols, largest) * std::min(1.0, softmax / factor + 0x1p-20) +
                       test::eps_of<T> * std::abs(e) + test::tiny_of<T>;
      if (!test::within(got, e, bound, std::is_same_v<T, float> ? &worst_gradient : nullptr))
        return "element " + std::to_string(row) + ", " + std::to_string(col) + " is " + std::to_string(got) +
               ", expected " + std::to_string(e);
    }
  return {};
}

template <class X, class D>
void test_types() {
  struct shape {
    index rows, cols, padding, slack;
    float range;
  };
  std::vector<shape> shapes = {{0, 3, 0, 0, 1}, {5, 1, 0, 0, 1}, {12, 384, 3, 1, 20}, {7, 1030, 1, 0, 10}};
  for (index cols = 2; cols <= 34; cols += test::quick() ? 11 : 1)
    shapes.push_back({11, cols, cols % 3, cols % 4, 5});
  if (!test::quick()) shapes.push_back({6, 30522, 0, 0, 8});
  for (const shape& s : shapes) {
    for (const bool with_lengths : {false, true}) {
      INFO("rows ", s.rows, " cols ", s.cols, " lengths ", with_lengths);
      const batch b(s.rows, s.cols, with_lengths, 3);
      guarded_matrix<X> logits(s.rows, s.cols, s.padding, s.slack);
      guarded_matrix<D> dlogits(s.rows, s.cols, s.padding / 2, s.slack / 2);
      test::random_numbers random(9);
      test::fill_random(logits.view(), random, s.range);
      if (with_lengths)  // beyond the length NaN, which must not leak
        for (index row = 0; row < s.rows; ++row)
          for (index col = b.lengths[static_cast<std::size_t>(row)]; col < s.cols; ++col)
            logits.view()(row, col) = X(std::numeric_limits<float>::quiet_NaN());
      const auto exact = reference::cross_entropy(logits.view(), b.targets, b.options);
      CHECK(cross_entropy_count(logits.view(), b.targets, b.options) == exact.counted);
      const double bound = static_cast<double>(exact.counted) *
                           row_bound(s.cols, static_cast<double>(s.range)) / b.options.divisor;
      CHECK(test::within(cross_entropy(logits.view(), b.targets, b.options), exact.loss, bound));
      dlogits.memory.fill_with_nan();
      const double loss =
          cross_entropy(logits.view(), b.targets, b.options, dlogits.view(), serial_executor());
      CHECK(test::within(loss, exact.loss, bound, std::is_same_v<X, float> ? &worst_loss : nullptr));
      CHECK(check_gradient(dlogits.view(), exact, b.options, static_cast<double>(s.range)) == "");
      CHECK(dlogits.intact());
      test::with_thread_counts([&](const executor& exec) {
        guarded_matrix<D> again(s.rows, s.cols, s.padding / 2, s.slack / 2);
        CHECK(cross_entropy(logits.view(), b.targets, b.options, again.view(), exec) == loss);
        CHECK(test::same_bits(again.memory, dlogits.memory));
      });
      if constexpr (std::is_same_v<X, D>) {
        CHECK(cross_entropy(logits.view(), b.targets, b.options, logits.view()) == loss);
        for (index row = 0; row < s.rows; ++row)
          for (index col = 0; col < s.cols; ++col)
            if (static_cast<float>(logits.view()(row, col)) != static_cast<float>(dlogits.view()(row, col)))
              FAIL_CHECK("in place differs at " << row << ", " << col);
      }
    }
  }
}

TEST_CASE("loss and gradient, every type, lengths, in place, any number of threads") {
  test::on_each_level([](isa) {
    test_types<float, float>();
    test_types<bf16, bf16>();
    test_types<fp16, fp16>();
    test_types<float, bf16>();
    test_types<bf16, float>();
  });
  MESSAGE("worst error / bound in f32: loss ", worst_loss, ", gradient ", worst_gradient);
}

TEST_CASE("the reference's gradient against central differences of the reference's loss") {
  guarded_matrix<float> x(4, 7);
  test::random_numbers random(1);
  test::fill_random(x.view(), random, 2);
  const std::vector<std::int32_t> targets = {3, -100, 0, 6};
  cross_entropy_options o;
  o.divisor = 3;
  const auto exact = reference::cross_entropy(x.view(), targets, o);
  for (index i = 0; i < 28; ++i) {
    const float before = x.memory[i], h = 0x1p-9f;
    x.memory[i] = before + h;
    const double above = reference::cross_entropy(x.view(), targets, o).loss;
    const double up = static_cast<double>(x.memory[i]);
    x.memory[i] = before - h;
    const double below = reference::cross_entropy(x.view(), targets, o).loss;
    const double width = up - static_cast<double>(x.memory[i]);
    x.memory[i] = before;
    CHECK(std::abs((above - below) / width - exact.dlogits[static_cast<std::size_t>(i)]) < 1e-6);
  }
}

TEST_CASE("special logits") {
  test::on_each_level([](isa) {
    const float infinity = std::numeric_limits<float>::infinity();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    // The first 1,030 logits -infinity, so that a whole block has no maximum.
    std::vector<float> x(2100, -infinity), d(2100);
    x[2000] = 1;
    x[2099] = 1;
    const std::vector<std::int32_t> target = {2099};
    const matrix_view<float> in(x.data(), 1, 2100), out(d.data(), 1, 2100);
    CHECK(cross_entropy(in, target, {}, out) == doctest::Approx(std::log(2.0)));
    CHECK(d[0] == 0.0f);
    CHECK(d[2000] == doctest::Approx(0.5));
    CHECK(d[2099] == doctest::Approx(-0.5));
    x[5] = 1000;  // no overflow
    CHECK(cross_entropy(in, target, {}, out) == doctest::Approx(999));
    CHECK(d[5] == 1.0f);
    x[5] = nan;
    CHECK(std::isnan(cross_entropy(in, target, {}, out)));
    CHECK(std::isnan(d[2000]));
    x[5] = infinity;
    CHECK(std::isnan(cross_entropy(in, target, {}, out)));
    // Nothing counts: 0 whatever the divisor, gradient 0, logits not read.
    cross_entropy_options o;
    o.divisor = 0;
    CHECK(cross_entropy(in, std::vector<std::int32_t>{-100}, o, out) == 0.0);
    for (const float v : d) CHECK(v == 0.0f);
  });
}

TEST_CASE("the checker fails a wrong kernel and a NaN kernel") {
  guarded_matrix<float> x(5, 40), d(5, 40);
  test::random_numbers random(1);
  test::fill_random(x.view(), random, 2);
  const batch b(5, 40, false, 1);
  const auto exact = reference::cross_entropy(x.view(), b.targets, b.options);
  cross_entropy(x.view(), b.targets, b.options, d.view());
  REQUIRE(check_gradient(d.view(), exact, b.options, 2) == "");
  d.view()(0, 39) *= 1.0001f;
  CHECK(check_gradient(d.view(), exact, b.options, 2) != "");
  d.view()(0, 39) = std::numeric_limits<float>::quiet_NaN();
  CHECK(check_gradient(d.view(), exact, b.options, 2) != "");
}

TEST_CASE("errors name the row and the target, and nothing is written") {
  std::vector<float> x(8, 1.0f), d(8, 7.0f);
  const matrix_view<float> in(x.data(), 2, 4), out(d.data(), 2, 4);
  CHECK_THROWS_WITH_AS(cross_entropy(in, std::vector<std::int32_t>{0, 4}, {}, out),
                       "cross_entropy: targets[1] 4 is not in [0, 4) and not ignore_index -100", error);
  CHECK_THROWS_WITH_AS(cross_entropy(in, std::vector<std::int32_t>{0}, {}, out),
                       "cross_entropy: targets.size 1 != logits.rows 2", error);
  const std::vector<std::int32_t> targets = {0, 1}, lengths = {4, 5};
  cross_entropy_options o;
  o.lengths = lengths;
  CHECK_THROWS_WITH_AS(cross_entropy(in, targets, o, out),
                       "cross_entropy: lengths[1] 5 is not in [0, logits.cols 4]", error);
  o = {};
  o.divisor = 0;
  CHECK_THROWS_WITH_AS(cross_entropy(in, targets, o, out),
                       "cross_entropy: divisor 0 is not positive, and 2 rows count", error);
  for (const float v : d) CHECK(v == 7.0f);
}

}  // namespace loss_tests
