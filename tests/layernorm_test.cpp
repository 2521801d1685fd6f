// layernorm and layernorm_backward at every level against reference/layernorm.hpp.
#include "rowwise_support.hpp"

#include <einkorn/reference/layernorm.hpp>

namespace {

using namespace test;
using einkorn::index;

constexpr double unit = 0x1p-23;

struct forward_case {
  typed_matrix x, y, narrow;
  guarded_buffer<float> gamma, beta, mean, rstd;
  bool with_narrow;
  forward_case(dtype x_type, dtype y_type, dtype narrow_type, index rows, index cols, random_numbers& random,
               float scale = 1, float shift = 0.3f)
      : x(x_type, rows, cols, 3, 1),
        y(y_type, rows, cols, 2),
        narrow(narrow_type == dtype::f32 ? dtype::bf16 : narrow_type, rows, cols),
        gamma(random_vector(cols, random, 0.5f, 1)),
        beta(random_vector(cols, random)),
        mean(rows),
        rstd(rows),
        with_narrow(narrow_type != dtype::f32) {
    x.fill(random, scale, shift);
  }
  void run(float eps, const einkorn::executor& exec = einkorn::default_executor()) const {
    einkorn::layernorm_outputs outputs{.narrow = {}, .mean = span_of(mean), .rstd = span_of(rstd)};
    if (with_narrow) outputs.narrow = narrow;
    einkorn::layernorm(x, span_of(gamma), span_of(beta), eps, y, outputs, exec);
  }
};

/// The bound of layernorm.hpp.
error_count compare(const forward_case& k, double eps) {
  error_count errors;
  const any_matrix shape = k.x;
  const auto cols = static_cast<std::size_t>(shape.cols);
  for (index r = 0; r < shape.rows; ++r) {
    const std::vector<double> x = k.x.row(r);
    std::vector<double> expected(cols);
    const einkorn::reference::moments m =
        einkorn::reference::layernorm_row(x, doubles(k.gamma), doubles(k.beta), eps, expected);
    double largest = 0;
    for (const double v : x) largest = std::fmax(largest, std::abs(v));
    const double u = (2 + static_cast<double>(cols) / 32) * unit, e = (4 + largest * m.rstd) * u;
    for (index c = 0; c < shape.cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double g = static_cast<double>(k.gamma[c]), b = static_cast<double>(k.beta[c]);
      const double xhat = (x[i] - m.mean) * m.rstd;
      const double bound =
          e * (1 + e) * (std::abs(xhat * g) + std::abs(g)) + unit * (std::abs(expected[i]) + std::abs(b));
      const auto rounding = [&](dtype type) {
        return eps_of_type(type) * (std::abs(expected[i]) + bound) + tiny_of_type(type);
      };
      errors.add(k.y.get(r, c), expected[i], bound + rounding(k.y.type()));
      if (k.with_narrow) errors.add(k.narrow.get(r, c), expected[i], bound + rounding(k.narrow.type()));
    }
    errors.add(static_cast<double>(k.mean[r]), m.mean, largest * u);
    errors.add(static_cast<double>(k.rstd[r]), m.rstd, e * (1 + e) * m.rstd);
  }
  return errors;
}

TEST_CASE("layernorm equals the reference for every type, length and level") {
  random_numbers random(21);
  double worst = 0;
  const dtype outputs[][2] = {{dtype::f32, dtype::f32},
                              {dtype::bf16, dtype::f32},
                              {dtype::fp16, dtype::f32},
                              {dtype::f32, dtype::bf16},
                              {dtype::f32, dtype::fp16}};
  on_each_level([&](einkorn::isa) {
    for (const dtype x_type : real_types)
      for (const auto& output : outputs)
        for (const index cols : row_lengths())
          for (const index rows : {0, 1, 4}) {
            CAPTURE(cols);
            const forward_case k(x_type, output[0], output[1], rows, cols, random);
            k.run(1e-12f);
            const error_count errors = compare(k, 1e-12f);
            CHECK(errors.wrong == 0);
            CHECK(k.y.intact());
            CHECK(k.narrow.intact());
            CHECK(k.mean.intact());
            CHECK(k.rstd.intact());
            if (output[0] == dtype::f32 && output[1] == dtype::f32) worst = std::fmax(worst, errors.worst);
          }
  });
  MESSAGE("worst error / bound with f32 outputs: ", worst);
}

TEST_CASE("layernorm: a large offset, constant rows, 100,000 columns, NaN, in place") {
  random_numbers random(22);
  on_each_level([&](einkorn::isa) {
    const forward_case offset(dtype::f32, dtype::f32, dtype::bf16, 3, 768, random, 1, 1000);
    offset.run(1e-5f);
    CHECK(compare(offset, static_cast<double>(1e-5f)).wrong == 0);
    const forward_case constant(dtype::f32, dtype::f32, dtype::bf16, 3, 64, random, 0, 0.75f);
    constant.run(1e-5f);
    for (index c = 0; c < 64; ++c) CHECK(constant.y.get(1, c) == static_cast<double>(constant.beta[c]));
    const forward_case wide(dtype::bf16, dtype::bf16, dtype::f32, 2, quick() ? 5000 : 100000, random);
    wide.run(1e-12f);
    CHECK(compare(wide, 1e-12).wrong == 0);
    const forward_case bad(dtype::f32, dtype::f32, dtype::f32, 3, 65, random);
    bad.x.set(1, 64, std::nan(""));
    bad.run(1e-12f);
    for (index c = 0; c < 65; ++c) {
      CHECK(std::isfinite(bad.y.get(0, c)));
      CHECK(std::isnan(bad.y.get(1, c)));
      CHECK(std::isfinite(bad.y.get(2, c)));
    }
    for (const dtype type : real_types) {
      const forward_case apart(type, type, dtype::f32, 3, 77, random);
      apart.run(1e-12f);
      einkorn::layernorm(apart.x, span_of(apart.gamma), span_of(apart.beta), 1e-12f, apart.x);
      for (index r = 0; r < 3; ++r)
        for (index c = 0; c < 77; ++c) CHECK(apart.x.get(r, c) == apart.y.get(r, c));
    }
  });
}

TEST_CASE("the comparison finds a wrong element and a NaN") {
  random_numbers random(23);
  const forward_case k(dtype::f32, dtype::f32, dtype::f32, 2, 40, random);
  k.run(1e-12f);
  CHECK(compare(k, 1e-12f).wrong == 0);
  const double kept = k.y.get(1, 39);
  for (const double wrong : {kept * 1.001, std::nan("")}) {
    k.y.set(1, 39, wrong);
    CHECK(compare(k, 1e-12f).wrong == 1);
  }
}

struct backward_case {
  typed_matrix dy, x, dx;
  guarded_buffer<float> gamma, mean, rstd, dgamma, dbeta;
  backward_case(dtype dy_type, dtype x_type, dtype dx_type, index rows, index cols, random_numbers& random)
      : dy(dy_type, rows, cols, 1),
        x(x_type, rows, cols, 2, 3),
        dx(dx_type, rows, cols, 4),
        gamma(random_vector(cols, random, 0.5f, 1)),
        mean(rows),
        rstd(rows),
        dgamma(cols),
        dbeta(cols) {
    dy.fill(random);
    x.fill(random, 2, 0.5f);
    const typed_matrix y(dtype::f32, rows, cols);
    einkorn::layernorm(x, span_of(gamma), span_of(gamma), 1e-12f, y,
                       {.narrow = {}, .mean = span_of(mean), .rstd = span_of(rstd)});
  }
  void run(bool accumulate, const einkorn::executor& exec = einkorn::default_executor()) const {
    einkorn::layernorm_backward(dy, x, span_of(gamma), span_of(mean), span_of(rstd), dx, span_of(dgamma),
                                span_of(dbeta), accumulate, exec);
  }
};

error_count compare(const backward_case& k) {
  error_count errors;
  const any_matrix shape = k.x;
  const auto cols = static_cast<std::size_t>(shape.cols);
  const std::vector<double> gamma = doubles(k.gamma);
  std::vector<double> dgamma(cols), dbeta(cols), gamma_size(cols), beta_size(cols), expected(cols);
  for (index r = 0; r < shape.rows; ++r) {
    const std::vector<double> d = k.dy.row(r), x = k.x.row(r);
    const einkorn::reference::moments m{static_cast<double>(k.mean[r]), static_cast<double>(k.rstd[r])};
    einkorn::reference::layernorm_backward_row(d, x, gamma, m, expected, dgamma, dbeta);
    const auto xhat = [&](std::size_t i) { return (x[i] - m.mean) * m.rstd; };
    double size_g = 0, size_gx = 0;
    for (std::size_t i = 0; i < cols; ++i) {
      size_g += std::abs(d[i] * gamma[i]) / static_cast<double>(cols);
      size_gx += std::abs(d[i] * gamma[i] * xhat(i)) / static_cast<double>(cols);
      gamma_size[i] += std::abs(d[i] * xhat(i));
      beta_size[i] += std::abs(d[i]);
    }
    for (index c = 0; c < shape.cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double bound = m.rstd * (4 + static_cast<double>(cols) / 16) * unit *
                           (std::abs(d[i] * gamma[i]) + size_g + 2 * std::abs(xhat(i)) * size_gx);
      errors.add(
          k.dx.get(r, c), expected[i],
          bound + eps_of_type(k.dx.type()) * (std::abs(expected[i]) + bound) + tiny_of_type(k.dx.type()));
    }
  }
  for (index c = 0; c < shape.cols; ++c) {
    const auto i = static_cast<std::size_t>(c);
    const double terms = static_cast<double>(shape.rows < 40 ? shape.rows : 40) + 8;
    errors.add(static_cast<double>(k.dgamma[c]), dgamma[i], terms * unit * gamma_size[i]);
    errors.add(static_cast<double>(k.dbeta[c]), dbeta[i], terms * unit * beta_size[i]);
  }
  return errors;
}

TEST_CASE("layernorm_backward equals the reference for every type, length and level") {
  random_numbers random(24);
  double worst = 0;
  on_each_level([&](einkorn::isa) {
    for (const dtype dy_type : real_types)
      for (const dtype x_type : real_types)
        for (const dtype dx_type : real_types)
          for (const index cols : row_lengths())
            for (const index rows : {1, 4, 67}) {
              if (rows > 4 && (cols > 70 || dx_type != dy_type)) continue;
              CAPTURE(cols);
              CAPTURE(rows);
              const backward_case k(dy_type, x_type, dx_type, rows, cols, random);
              k.run(false);
              const error_count errors = compare(k);
              CHECK(errors.wrong == 0);
              CHECK(k.dx.intact());
              CHECK(k.dgamma.intact());
              CHECK(k.dbeta.intact());
              if (dx_type == dtype::f32) worst = std::fmax(worst, errors.worst);
            }
  });
  MESSAGE("worst error / bound with f32 outputs: ", worst);
}

TEST_CASE("layernorm_backward: wrong gradients are found, threads, in place, accumulation, no rows") {
  random_numbers random(25);
  on_each_level([&](einkorn::isa) {
    const backward_case once(dtype::f32, dtype::bf16, dtype::f32, 131, 1100, random);
    once.run(false, einkorn::serial_executor());
    CHECK(compare(once).wrong == 0);
    guarded_buffer<float> dgamma(1100), dbeta(1100);
    with_thread_counts([&](const einkorn::executor& exec) {
      const typed_matrix dx(dtype::f32, 131, 1100, 4);
      einkorn::layernorm_backward(once.dy, once.x, span_of(once.gamma), span_of(once.mean),
                                  span_of(once.rstd), dx, span_of(dgamma), span_of(dbeta), false, exec);
      CHECK(dx.same_bits_as(once.dx));
      CHECK(same_bits(dgamma, once.dgamma));
      CHECK(same_bits(dbeta, once.dbeta));
    });
    einkorn::layernorm_backward(once.dy, once.x, span_of(once.gamma), span_of(once.mean), span_of(once.rstd),
                                once.dy, span_of(dgamma), span_of(dbeta), true);
    for (index c = 0; c < 1100; ++c) {
      CHECK(dgamma[c] == 2 * once.dgamma[c]);
      CHECK(dbeta[c] == 2 * once.dbeta[c]);
      CHECK(once.dy.get(130, c) == once.dx.get(130, c));
    }
    const float kept = once.dbeta[1099];
    once.dbeta[1099] = std::nanf("");
    CHECK(compare(once).wrong > 0);
    once.dbeta[1099] = kept;

    const backward_case none(dtype::f32, dtype::f32, dtype::f32, 0, 33, random);
    none.run(false);
    for (const float v : none.dgamma) CHECK(v == 0);
    none.dbeta[32] = 3;
    none.run(true);
    CHECK(none.dbeta[32] == 3);
  });
}

TEST_CASE("the reference's gradients equal central differences of the reference") {
  random_numbers random(26);
  constexpr std::size_t cols = 9;
  constexpr double eps = 1e-3, h = 1e-5;
  std::vector<double> x(cols), gamma(cols), beta(cols), dy(cols), y(cols), dx(cols), dgamma(cols),
      dbeta(cols);
  for (std::vector<double>* v : {&x, &gamma, &beta, &dy})
    for (double& e : *v) e = static_cast<double>(random.real());
  const auto m = einkorn::reference::layernorm_row(x, gamma, beta, eps, y);
  einkorn::reference::layernorm_backward_row(dy, x, gamma, m, dx, dgamma, dbeta);
  const auto loss = [&] {
    std::vector<double> out(cols);
    einkorn::reference::layernorm_row(x, gamma, beta, eps, out);
    double sum = 0;
    for (std::size_t i = 0; i < cols; ++i) sum += out[i] * dy[i];
    return sum;
  };
  const auto check = [&](std::vector<double>& variable, const std::vector<double>& gradient) {
    for (std::size_t i = 0; i < cols; ++i) {
      const double kept = variable[i];
      variable[i] = kept + h;
      const double up = loss();
      variable[i] = kept - h;
      const double down = loss();
      variable[i] = kept;
      CHECK(within(gradient[i], (up - down) / (2 * h), 1e-8));
    }
  };
  check(x, dx);
  check(gamma, dgamma);
  check(beta, dbeta);
}

TEST_CASE("layernorm names what is wrong, and writes nothing then") {
  const typed_matrix x(dtype::f32, 4, 8), y(dtype::f32, 4, 8), brief(dtype::bf16, 4, 8),
      short_x(dtype::f32, 3, 8);
  guarded_buffer<float> eight(8), four(4), seven(7);
  const auto run = [&](const any_output& out, const guarded_buffer<float>& gamma,
                       const einkorn::layernorm_outputs& outputs) {
    einkorn::layernorm(x, span_of(gamma), span_of(eight), 1e-12f, out, outputs);
  };
  CHECK_THROWS_WITH_AS(run(short_x, eight, {}), "layernorm: y.rows 3 != x.rows 4", einkorn::error);
  CHECK_THROWS_WITH_AS(run(y, seven, {}), "layernorm: gamma.size 7 != x.cols 8", einkorn::error);
  CHECK_THROWS_WITH_AS(run(y, eight, {.narrow = x}), "layernorm: narrow is f32, expected bf16 or fp16",
                       einkorn::error);
  CHECK_THROWS_WITH_AS(run(y, eight, {.narrow = {}, .mean = span_of(seven)}),
                       "layernorm: mean.size 7 != x.rows 4", einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::layernorm_backward(x, x, span_of(eight), span_of(four), span_of(seven), y,
                                                   span_of(eight), span_of(eight)),
                       "layernorm_backward: rstd.size 7 != x.rows 4", einkorn::error);
  any_matrix transposed = x;
  transposed.transposed = true;
  CHECK_THROWS_WITH_AS(einkorn::layernorm(transposed, span_of(eight), span_of(eight), 1e-12f, y),
                       "layernorm: x is transposed, and this argument may not be", einkorn::error);
  for (index r = 0; r < 4; ++r)
    for (index c = 0; c < 8; ++c) CHECK(std::isnan(y.get(r, c)));
}

}  // namespace
