// softmax and softmax_backward at every level against reference/softmax.hpp.
#include "rowwise_support.hpp"

#include <einkorn/reference/softmax.hpp>

namespace {

using namespace test;
using einkorn::index;
using einkorn::softmax_options;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double unit = 0x1p-23;

/// The bound of softmax.hpp, over all elements.
error_count compare(const any_matrix& shape, const typed_matrix& x, const typed_matrix& y,
                    const softmax_options& options, const typed_matrix* mask) {
  error_count errors;
  const auto cols = static_cast<std::size_t>(shape.cols);
  for (index r = 0; r < shape.rows; ++r) {
    const std::vector<double> in = x.row(r);
    const std::vector<double> m =
        mask == nullptr ? std::vector<double>() : mask->row(options.mask.rows == 1 ? 0 : r);
    const std::size_t length = options.lengths.empty()
                                   ? cols
                                   : static_cast<std::size_t>(options.lengths[static_cast<std::size_t>(r)]);
    std::vector<double> expected(cols);
    const double scale = static_cast<double>(options.scale);
    const double lse = einkorn::reference::softmax_row(in, m, length, scale, expected);
    double largest = 0;
    for (std::size_t c = 0; c < length; ++c)
      if (m.empty() || m[c] != -infinity)
        largest = std::fmax(largest, std::abs(scale * in[c]) + (m.empty() ? 0 : std::abs(m[c])));
    const double relative = (8 + 4 * largest + static_cast<double>(cols) / 32) * unit;
    for (index c = 0; c < shape.cols; ++c) {
      const double e = expected[static_cast<std::size_t>(c)];
      errors.add(y.get(r, c), e, (relative + eps_of_type(y.type())) * e + tiny_of_type(y.type()));
    }
    if (!options.lse.empty())
      errors.add(static_cast<double>(options.lse[static_cast<std::size_t>(r)]), lse, relative);
  }
  return errors;
}

TEST_CASE("softmax equals the reference for every type, length, mask and level") {
  random_numbers random(1);
  double worst = 0;
  on_each_level([&](einkorn::isa) {
    for (const dtype x_type : real_types) {
      for (const dtype y_type : real_types) {
        for (const index cols : row_lengths()) {
          for (int form = 0; form < 4; ++form) {
            const index rows = form == 0 ? 2 : 5, slack = form == 1 ? 3 : 0;
            CAPTURE(cols);
            CAPTURE(form);
            const typed_matrix x(x_type, rows, cols, form == 2 ? 5 : 0, slack),
                y(y_type, rows, cols, 3, slack);
            x.fill(random, 4);
            const typed_matrix mask(dtype::f32, form == 2 ? rows : 1, cols, 7);
            std::vector<std::int32_t> lengths;
            guarded_buffer<float> lse(rows);
            softmax_options options{.scale = 0.7f, .lse = span_of(lse)};
            if (form == 1)
              for (index r = 0; r < rows; ++r) lengths.push_back(static_cast<std::int32_t>(cols * r / 4));
            options.lengths = lengths;
            if (form >= 2) {
              mask.fill(random, 2);
              for (index c = 0; c < cols; c += 3) mask.set(0, c, -infinity);
              options.mask = mask;
            }
            einkorn::softmax(x, y, options);
            const error_count errors = compare(x, x, y, options, form >= 2 ? &mask : nullptr);
            CHECK(errors.wrong == 0);
            CHECK(y.intact());
            CHECK(lse.intact());
            if (y_type == dtype::f32) worst = std::fmax(worst, errors.worst);
          }
        }
      }
    }
  });
  MESSAGE("worst error / bound with f32 outputs: ", worst);
}

TEST_CASE("the comparison finds a wrong element and a NaN") {
  random_numbers random(2);
  const typed_matrix x(dtype::f32, 3, 40), y(dtype::f32, 3, 40);
  x.fill(random);
  einkorn::softmax(x, y);
  CHECK(compare(x, x, y, {}, nullptr).wrong == 0);
  CHECK(compare(x, x, y, {}, nullptr).seen == 120);
  const double kept = y.get(1, 39);
  y.set(1, 39, kept * (1 + 1e-5));
  CHECK(compare(x, x, y, {}, nullptr).wrong == 1);
  y.set(1, 39, std::nan(""));
  CHECK(compare(x, x, y, {}, nullptr).wrong == 1);
}

TEST_CASE("equal elements share the row, however large they and the scale are") {
  on_each_level([&](einkorn::isa) {
    constexpr index cols = 37;
    const typed_matrix x(dtype::f32, 1, cols), y(dtype::f32, 1, cols);
    for (const float scale : {0.1f, 0.3f, 0.17677669f, 1.0f, -0.1f, -7.0f, 0.0f})
      for (const double value : {-3.4e38, -1e12, 1e10, 3.4e38, 1.0}) {
        guarded_buffer<float> lse(1);
        for (index c = 0; c < cols; ++c) x.set(0, c, value);
        einkorn::softmax(x, y, {.scale = scale, .lse = span_of(lse)});
        for (index c = 0; c < cols; ++c) CHECK(y.get(0, c) == doctest::Approx(1.0 / cols));
        CHECK(!std::isnan(lse[0]));
      }
  });
}

TEST_CASE("masked elements do not leak, and a fully masked row is zero") {
  on_each_level([&](einkorn::isa) {
    for (const dtype type : real_types) {
      constexpr index rows = 4, cols = 37;
      const typed_matrix x(type, rows, cols), y(type, rows, cols), mask(dtype::f32, rows, cols);
      random_numbers random(3);
      x.fill(random);
      for (index r = 0; r < rows; ++r)
        for (index c = 0; c < cols; ++c) mask.set(r, c, r == 3 || c % 2 == 1 ? -infinity : 0);
      for (index c = 1; c < cols; c += 2) x.set(0, c, c % 4 == 1 ? std::nan("") : infinity);
      for (index c = 20; c < cols; ++c) x.set(1, c, std::nan(""));
      guarded_buffer<float> lse(rows);
      const std::int32_t lengths[] = {cols, 20, 0, cols};
      const softmax_options options{.scale = 1, .mask = mask, .lengths = lengths, .lse = span_of(lse)};
      einkorn::softmax(x, y, options);
      CHECK(compare(x, x, y, options, &mask).wrong == 0);
      for (index c = 0; c < cols; ++c) {
        CHECK(y.get(2, c) == 0);
        CHECK(y.get(3, c) == 0);
        if (c % 2 == 1) CHECK(y.get(0, c) == 0);
        if (c >= 20) CHECK(y.get(1, c) == 0);
      }
      CHECK(static_cast<double>(lse[2]) == -infinity);
      CHECK(static_cast<double>(lse[3]) == -infinity);

      const typed_matrix dy(type, rows, cols), dx(type, rows, cols);
      dy.fill(random);
      for (index r = 0; r < rows; ++r)
        for (index c = 0; c < cols; ++c)
          if (y.get(r, c) == 0) dy.set(r, c, std::nan(""));
      einkorn::softmax_backward(y, dy, dx);
      for (index r = 0; r < rows; ++r)
        for (index c = 0; c < cols; ++c) {
          CHECK(std::isfinite(dx.get(r, c)));
          if (y.get(r, c) == 0) CHECK(dx.get(r, c) == 0);
        }
    }
  });
}

TEST_CASE("NaN and +infinity that are not masked make their row NaN, wherever they stand") {
  on_each_level([&](einkorn::isa) {
    for (const index cols : {1, 5, 16, 70})
      for (index at = 0; at < cols; ++at)
        for (const double bad : {std::nan(""), infinity})
          for (const double rest : {0.5, -infinity}) {
            const typed_matrix x(dtype::f32, 2, cols), y(dtype::f32, 2, cols);
            for (index c = 0; c < cols; ++c) {
              x.set(0, c, c == at ? bad : rest);
              x.set(1, c, 1);
            }
            einkorn::softmax(x, y);
            CHECK(std::isnan(y.get(0, at)));
            CHECK(y.get(1, at) == doctest::Approx(1.0 / static_cast<double>(cols)));
          }
  });
}

TEST_CASE("softmax of a row of 100,000 and in place") {
  random_numbers random(4);
  on_each_level([&](einkorn::isa) {
    for (const dtype type : real_types) {
      for (const index cols : {index{300}, quick() ? index{5000} : index{100000}}) {
        const typed_matrix x(type, 2, cols), y(type, 2, cols);
        x.fill(random, 9);
        einkorn::softmax(x, y);
        CHECK(compare(x, x, y, {}, nullptr).wrong == 0);
        einkorn::softmax(x, x);
        CHECK(x.same_bits_as(y));
      }
    }
  });
}

TEST_CASE("the same bits for any number of threads") {
  random_numbers random(5);
  on_each_level([&](einkorn::isa) {
    constexpr index rows = 300, cols = 384;
    const typed_matrix x(dtype::bf16, rows, cols), once(dtype::fp16, rows, cols),
        grad(dtype::f32, rows, cols);
    x.fill(random, 3);
    einkorn::softmax(x, once, {}, einkorn::serial_executor());
    einkorn::softmax_backward(once, x, grad, 0.5f, einkorn::serial_executor());
    with_thread_counts([&](const einkorn::executor& exec) {
      const typed_matrix y(dtype::fp16, rows, cols), dx(dtype::f32, rows, cols);
      einkorn::softmax(x, y, {}, exec);
      einkorn::softmax_backward(y, x, dx, 0.5f, exec);
      CHECK(y.same_bits_as(once));
      CHECK(dx.same_bits_as(grad));
    });
  });
}

TEST_CASE("softmax_backward equals the reference for every type, length and level") {
  random_numbers random(6);
  double worst = 0;
  on_each_level([&](einkorn::isa) {
    for (const dtype y_type : real_types)
      for (const dtype dy_type : real_types)
        for (const dtype dx_type : real_types)
          for (const index cols : row_lengths()) {
            if (cols > 1000 && dx_type != y_type) continue;
            const index rows = 3;
            const typed_matrix x(dtype::f32, rows, cols), y(y_type, rows, cols, 5),
                dy(dy_type, rows, cols, 3, 1), dx(dx_type, rows, cols, 2);
            x.fill(random, 2);
            dy.fill(random);
            einkorn::softmax(x, y);
            constexpr double scale = 0.125;
            einkorn::softmax_backward(y, dy, dx, 0.125f);
            error_count errors;
            for (index r = 0; r < rows; ++r) {
              const std::vector<double> p = y.row(r), g = dy.row(r);
              std::vector<double> expected(p.size());
              einkorn::reference::softmax_backward_row(p, g, scale, expected);
              double magnitude = 0;
              for (std::size_t c = 0; c < p.size(); ++c) magnitude += std::abs(p[c] * g[c]);
              for (index c = 0; c < cols; ++c) {
                const auto i = static_cast<std::size_t>(c);
                const double bound = scale * p[i] * (4 + static_cast<double>(cols) / 32) * unit *
                                         (std::abs(g[i]) + magnitude) +
                                     eps_of_type(dx_type) * std::abs(expected[i]) + tiny_of_type(dx_type);
                errors.add(dx.get(r, c), expected[i], bound);
              }
            }
            CHECK(errors.wrong == 0);
            CHECK(dx.intact());
            if (dx_type == dtype::f32) worst = std::fmax(worst, errors.worst);
            if (dx_type == dy_type) {  // in place of dy
              const typed_matrix again(dy_type, rows, cols, 2);
              for (index r = 0; r < rows; ++r)
                for (index c = 0; c < cols; ++c) again.set(r, c, dy.get(r, c));
              einkorn::softmax_backward(y, again, again, 0.125f);
              CHECK(again.same_bits_as(dx));
            }
          }
  });
  MESSAGE("worst error / bound with f32 outputs: ", worst);
}

TEST_CASE("the reference's gradient equals central differences of the reference") {
  random_numbers random(7);
  constexpr std::size_t cols = 11;
  std::vector<double> x(cols), mask(cols), dy(cols), y(cols), dx(cols);
  for (double& v : x) v = static_cast<double>(random.real());
  for (double& v : dy) v = static_cast<double>(random.real());
  mask[4] = -infinity;
  constexpr double scale = 1.3, h = 1e-5;
  const auto loss = [&](const std::vector<double>& at) {
    std::vector<double> out(cols);
    einkorn::reference::softmax_row(at, mask, 9, scale, out);
    double sum = 0;
    for (std::size_t i = 0; i < cols; ++i) sum += out[i] * dy[i];
    return sum;
  };
  einkorn::reference::softmax_row(x, mask, 9, scale, y);
  einkorn::reference::softmax_backward_row(y, dy, scale, dx);
  for (std::size_t i = 0; i < cols; ++i) {
    std::vector<double> up = x, down = x;
    up[i] += h;
    down[i] -= h;
    CHECK(within(dx[i], (loss(up) - loss(down)) / (2 * h), 1e-9));
  }
}

TEST_CASE("softmax names what is wrong, and writes nothing then") {
  const typed_matrix x(dtype::f32, 3, 8), y(dtype::f32, 3, 8), narrow(dtype::f32, 3, 7),
      mask(dtype::f32, 2, 8), half_mask(dtype::bf16, 1, 8);
  const std::int32_t lengths[] = {1, 9, 0};
  float lse[2];
  CHECK_THROWS_WITH_AS(einkorn::softmax(x, narrow), "softmax: y.cols 7 != x.cols 8", einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::softmax(x, y, {.mask = mask}), "softmax: mask.rows 2 != x.rows 3",
                       einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::softmax(x, y, {.mask = half_mask}), "softmax: mask is bf16, expected f32",
                       einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::softmax(x, y, {.lengths = lengths}),
                       "softmax: lengths[1] 9 is not in [0, x.cols 8]", einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::softmax(x, y, {.lengths = std::span(lengths).first(2)}),
                       "softmax: lengths.size 2 != x.rows 3", einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::softmax(x, y, {.lse = lse}), "softmax: lse.size 2 != x.rows 3",
                       einkorn::error);
  any_output shifted = x;
  shifted.data = static_cast<float*>(shifted.data) + 1;
  shifted.rows = 2;
  any_matrix first = x;
  first.rows = 2;
  CHECK_THROWS_WITH_AS(einkorn::softmax(first, shifted),
                       "softmax: y overlaps x without being the same matrix", einkorn::error);
  any_matrix integers = x;
  integers.type = dtype::i32;
  CHECK_THROWS_WITH_AS(einkorn::softmax(integers, y), "softmax: x is i32, expected f32, bf16 or fp16",
                       einkorn::error);
  for (index r = 0; r < 3; ++r)
    for (index c = 0; c < 8; ++c) CHECK(std::isnan(y.get(r, c)));
  CHECK_THROWS_WITH_AS(einkorn::softmax_backward(y, narrow, y), "softmax_backward: dy.cols 7 != y.cols 8",
                       einkorn::error);
}

}  // namespace
