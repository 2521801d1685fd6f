// Dropout and the fused dropout + residual + layer normalisation at every level.
#include "rowwise_support.hpp"

#include <einkorn/reference/dropout.hpp>
#include <einkorn/reference/layernorm.hpp>

namespace {

using namespace test;
using einkorn::dropout_spec;
using einkorn::index;
using einkorn::sequence;

constexpr double unit = 0x1p-23;

TEST_CASE("Philox4x32-10 gives the known answers of Random123") {
  using einkorn::reference::philox4x32_10;
  using einkorn::reference::philox_block;
  constexpr std::uint32_t ones = 0xffffffffu;
  CHECK(philox4x32_10({0, 0, 0, 0}, {0, 0}) ==
        philox_block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(philox4x32_10({ones, ones, ones, ones}, {ones, ones}) ==
        philox_block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(philox4x32_10({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}) ==
        philox_block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

// The first answer's block through the kernels: element e is kept exactly where its 16 bits reach the
// threshold.
TEST_CASE("the kernels drop what the known answers say") {
  const std::uint32_t words[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
  on_each_level([&](einkorn::isa) {
    for (const float p : {0.1f, 0.3f, 0.5f, 0.69f, 0.9f}) {
      const typed_matrix x(dtype::f32, 1, 8), y(dtype::f32, 1, 8);
      for (index c = 0; c < 8; ++c) x.set(0, c, 1);
      einkorn::dropout(x, y, {.p = p});
      const double threshold = std::round(65536.0 * static_cast<double>(p));
      for (index e = 0; e < 8; ++e) {
        const std::uint32_t bits = words[e / 2] >> (e % 2 * 16) & 0xffffu;
        const auto kept = static_cast<double>(static_cast<float>(65536.0 / (65536.0 - threshold)));
        CHECK(y.get(0, e) == (bits < threshold ? 0.0 : kept));
      }
    }
  });
}

struct layout {
  const char* name;
  index rows;
  std::vector<sequence> sequences;
};
const std::vector<layout>& layouts() {
  static const std::vector<layout> all = {
      {"one sample", 5, {}},
      {"packed", 7, {{0, 3, 3, 11}, {3, 0, 0, 4}, {3, 4, 4, 0xfffffffeu}, {7, 0, 0, 9}}},
      {"padded", 9, {{0, 3, 1, 2}, {3, 3, 3, 1}, {6, 3, 0, 0}}},
  };
  return all;
}
dropout_spec spec_of(const layout& l, float p) {
  return {.p = p, .seed = 0x123456789abcdef0u, .step = 77, .site = 5, .sequences = l.sequences};
}

TEST_CASE("dropout has the reference's bits for every type, layout and level") {
  random_numbers random(11);
  on_each_level([&](einkorn::isa) {
    for (const dtype x_type : real_types)
      for (const dtype y_type : real_types)
        for (const index cols : row_lengths())
          for (const layout& l : layouts())
            for (const float p : {0.0f, 0.1f, 0.99999f}) {
              if (cols > 1000 && (x_type != y_type || p > 0.5f)) continue;
              const dropout_spec spec = spec_of(l, p);
              const typed_matrix x(x_type, l.rows, cols, 3, 1), y(y_type, l.rows, cols, 5),
                  again(y_type, l.rows, cols, 5), expected(y_type, l.rows, cols, 5);
              x.fill(random);
              einkorn::dropout(x, y, spec);
              einkorn::dropout_backward(x, again, spec);
              const std::uint32_t t = einkorn::detail::dropout_threshold(p);
              for (index r = 0; r < l.rows; ++r)
                for (index c = 0; c < cols; ++c) {
                  const bool kept = t == 0 || einkorn::reference::dropout_factor(spec, r, c, cols) != 0;
                  const float scale = kept ? einkorn::detail::dropout_scale(t) : 0.0f;
                  const float product = static_cast<float>(x.get(r, c)) * scale;
                  expected.set(r, c, static_cast<double>(product));
                }
              CAPTURE(cols);
              CAPTURE(l.name);
              CHECK(y.same_bits_as(expected));
              CHECK(again.same_bits_as(y));
              CHECK(y.intact());
            }
  });
}

TEST_CASE("a mask does not depend on packing, padding or the rows before") {
  constexpr index cols = 21;
  const typed_matrix ones(dtype::f32, 9, cols), packed(dtype::f32, 7, cols), padded(dtype::f32, 9, cols);
  for (index r = 0; r < 9; ++r)
    for (index c = 0; c < cols; ++c) ones.set(r, c, 1);
  any_matrix seven = ones;
  seven.rows = 7;
  const sequence packed_rows[] = {{0, 3, 3, 40}, {3, 4, 4, 41}};
  const sequence padded_rows[] = {{0, 4, 3, 41}, {4, 5, 3, 40}};
  einkorn::dropout(seven, packed, {.p = 0.5f, .sequences = packed_rows});
  einkorn::dropout(ones, padded, {.p = 0.5f, .sequences = padded_rows});
  for (index c = 0; c < cols; ++c) {
    for (index r = 0; r < 3; ++r) CHECK(packed.get(r, c) == padded.get(4 + r, c));
    for (index r = 0; r < 4; ++r) CHECK(packed.get(3 + r, c) == padded.get(r, c));
  }
}

TEST_CASE("the share of dropped elements is p, and differs by seed, step, site and sample") {
  constexpr index rows = 64, cols = 1024;
  const typed_matrix ones(dtype::f32, rows, cols), y(dtype::f32, rows, cols), z(dtype::f32, rows, cols);
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < cols; ++c) ones.set(r, c, 1);
  const sequence other[] = {{0, rows, rows, 1}};
  einkorn::dropout(ones, y, {.p = 0.1f});
  const dropout_spec changed[] = {{.p = 0.1f, .seed = 1},
                                  {.p = 0.1f, .seed = std::uint64_t{1} << 32},
                                  {.p = 0.1f, .step = 1},
                                  {.p = 0.1f, .site = 1},
                                  {.p = 0.1f, .sequences = other}};
  const auto dropped = [&](const typed_matrix& m, const typed_matrix* with) {
    int count = 0;
    for (index r = 0; r < rows; ++r)
      for (index c = 0; c < cols; ++c)
        count += static_cast<int>(m.get(r, c) == 0 && (with == nullptr || with->get(r, c) == 0));
    return count;
  };
  // 65,536 draws: 5 standard deviations are 384 of 6554, and 127 of the 655 that two masks share by chance.
  CHECK(std::abs(dropped(y, nullptr) - 6554) < 384);
  for (const dropout_spec& spec : changed) {
    einkorn::dropout(ones, z, spec);
    CHECK(std::abs(dropped(z, nullptr) - 6554) < 384);
    CHECK(std::abs(dropped(z, &y) - 655) < 127);
  }
}

struct fused_case {
  index rows, cols;
  typed_matrix x, residual, sum, y, narrow, dy, added, dx, dresidual;
  guarded_buffer<float> gamma, beta, mean, rstd, dgamma, dbeta;
  fused_case(dtype x_type, dtype dy_type, index rows_, index cols_, random_numbers& random)
      : rows(rows_),
        cols(cols_),
        x(x_type, rows, cols, 3),
        residual(dtype::f32, rows, cols, 1),
        sum(dtype::f32, rows, cols, 2, 1),
        y(dtype::f32, rows, cols),
        narrow(x_type == dtype::fp16 ? dtype::fp16 : dtype::bf16, rows, cols, 1),
        dy(dtype::f32, rows, cols, 4),
        added(dy_type, rows, cols),
        dx(x_type, rows, cols, 1),
        dresidual(dtype::f32, rows, cols, 5),
        gamma(random_vector(cols, random, 0.5f, 1)),
        beta(random_vector(cols, random)),
        mean(rows),
        rstd(rows),
        dgamma(cols),
        dbeta(cols) {
    x.fill(random, 2);
    residual.fill(random, 1, 0.5f);
    dy.fill(random);
    added.fill(random);
  }
  void forward(const dropout_spec& spec, const einkorn::executor& exec = einkorn::default_executor()) {
    einkorn::dropout_residual_layernorm(x, residual, span_of(gamma), span_of(beta), 1e-12f, spec, sum, y,
                                        {.narrow = narrow, .mean = span_of(mean), .rstd = span_of(rstd)},
                                        exec);
  }
  void backward(const dropout_spec& spec, const einkorn::executor& exec = einkorn::default_executor()) {
    einkorn::dropout_residual_layernorm_backward(dy, sum, span_of(gamma), span_of(mean), span_of(rstd), spec,
                                                 dx, dresidual, span_of(dgamma), span_of(dbeta),
                                                 {.dy_added = added, .accumulate = false}, exec);
  }
};

error_count compare_forward(const fused_case& k, const dropout_spec& spec) {
  error_count errors;
  const bool drops = einkorn::detail::dropout_threshold(spec.p) != 0;
  const auto cols = static_cast<std::size_t>(k.cols);
  for (index r = 0; r < k.rows; ++r) {
    for (index c = 0; c < k.cols; ++c) {
      const double factor = drops ? einkorn::reference::dropout_factor(spec, r, c, k.cols) : 1;
      const double product = k.x.get(r, c) * factor, sum = product + k.residual.get(r, c);
      errors.add(k.sum.get(r, c), sum, unit * (std::abs(product) + std::abs(sum)));
    }
    // From here on the truth starts at the sum that the kernel stored.
    const std::vector<double> sum = k.sum.row(r);
    std::vector<double> expected(cols);
    const einkorn::reference::moments m =
        einkorn::reference::layernorm_row(sum, doubles(k.gamma), doubles(k.beta), 1e-12, expected);
    double largest = 0;
    for (const double v : sum) largest = std::fmax(largest, std::abs(v));
    const double e = (4 + largest * m.rstd) * (2 + static_cast<double>(cols) / 32) * unit;
    for (index c = 0; c < k.cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double g = static_cast<double>(k.gamma[c]), b = static_cast<double>(k.beta[c]);
      const double xhat = (sum[i] - m.mean) * m.rstd;
      const double bound =
          e * (1 + e) * (std::abs(xhat * g) + std::abs(g)) + unit * (std::abs(expected[i]) + std::abs(b));
      errors.add(k.y.get(r, c), expected[i], bound);
      errors.add(k.narrow.get(r, c), k.y.get(r, c),
                 eps_of_type(k.narrow.type()) * std::abs(k.y.get(r, c)) + tiny_of_type(k.narrow.type()));
    }
    errors.add(static_cast<double>(k.mean[r]), m.mean, largest * (2 + static_cast<double>(cols) / 32) * unit);
    errors.add(static_cast<double>(k.rstd[r]), m.rstd, e * (1 + e) * m.rstd);
  }
  return errors;
}

error_count compare_backward(const fused_case& k, const dropout_spec& spec, bool with_added) {
  error_count errors;
  const bool drops = einkorn::detail::dropout_threshold(spec.p) != 0;
  const auto cols = static_cast<std::size_t>(k.cols);
  std::vector<double> dgamma(cols), dbeta(cols), gamma_size(cols), beta_size(cols), d(cols), dsum(cols);
  for (index r = 0; r < k.rows; ++r) {
    const std::vector<double> sum = k.sum.row(r), gamma = doubles(k.gamma);
    for (index c = 0; c < k.cols; ++c)
      d[static_cast<std::size_t>(c)] = k.dy.get(r, c) + (with_added ? k.added.get(r, c) : 0);
    const einkorn::reference::moments m{static_cast<double>(k.mean[r]), static_cast<double>(k.rstd[r])};
    einkorn::reference::layernorm_backward_row(d, sum, gamma, m, dsum, dgamma, dbeta);
    double size_g = 0, size_gx = 0;
    const auto xhat = [&](std::size_t i) { return (sum[i] - m.mean) * m.rstd; };
    for (std::size_t i = 0; i < cols; ++i) {
      size_g += std::abs(d[i] * gamma[i]) / static_cast<double>(cols);
      size_gx += std::abs(d[i] * gamma[i] * xhat(i)) / static_cast<double>(cols);
      gamma_size[i] += std::abs(d[i] * xhat(i));
      beta_size[i] += std::abs(d[i]);
    }
    for (index c = 0; c < k.cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double bound = m.rstd * (5 + static_cast<double>(cols) / 16) * unit *
                           (std::abs(d[i] * gamma[i]) + size_g + 2 * std::abs(xhat(i)) * size_gx);
      errors.add(k.dresidual.get(r, c), dsum[i], bound + unit * std::abs(dsum[i]));
      const double factor = drops ? einkorn::reference::dropout_factor(spec, r, c, k.cols) : 1;
      errors.add(k.dx.get(r, c), dsum[i] * factor,
                 factor * bound + (3 * unit + eps_of_type(k.dx.type())) * std::abs(dsum[i] * factor) +
                     (factor == 0 ? 0 : tiny_of_type(k.dx.type())));
    }
  }
  for (index c = 0; c < k.cols; ++c) {
    const auto i = static_cast<std::size_t>(c);
    const double terms = static_cast<double>(k.rows < 40 ? k.rows : 40) + 8;
    errors.add(static_cast<double>(k.dgamma[c]), dgamma[i], terms * unit * gamma_size[i]);
    errors.add(static_cast<double>(k.dbeta[c]), dbeta[i], terms * unit * beta_size[i]);
  }
  return errors;
}

TEST_CASE("the fused passes equal the reference for every type, layout and level") {
  random_numbers random(12);
  double worst_forward = 0, worst_backward = 0;
  on_each_level([&](einkorn::isa) {
    for (const dtype x_type : real_types)
      for (const dtype dy_type : real_types)
        for (const index cols : row_lengths())
          for (const layout& l : layouts())
            for (const float p : {0.0f, 0.1f}) {
              if (cols > 1000 && x_type != dy_type) continue;
              CAPTURE(cols);
              CAPTURE(l.name);
              CAPTURE(p);
              const dropout_spec spec = spec_of(l, p);
              fused_case k(x_type, dy_type, l.rows, cols, random);
              k.forward(spec);
              const error_count forward = compare_forward(k, spec);
              CHECK(forward.wrong == 0);
              k.backward(spec);
              const error_count backward = compare_backward(k, spec, true);
              CHECK(backward.wrong == 0);
              for (const typed_matrix* m : {&k.sum, &k.y, &k.narrow, &k.dx, &k.dresidual}) CHECK(m->intact());
              for (const guarded_buffer<float>* b : {&k.mean, &k.rstd, &k.dgamma, &k.dbeta})
                CHECK(b->intact());
              worst_forward = std::fmax(worst_forward, forward.worst);
              worst_backward = std::fmax(worst_backward, backward.worst);
            }
  });
  MESSAGE("worst error / bound: forward ", worst_forward, ", backward ", worst_backward);
}

TEST_CASE("the comparisons of the fused passes find a wrong element and a NaN") {
  random_numbers random(13);
  const dropout_spec spec = spec_of(layouts()[0], 0.1f);
  fused_case k(dtype::f32, dtype::f32, 5, 33, random);
  k.forward(spec);
  k.backward(spec);
  for (const double wrong : {1.0001, std::nan("")}) {
    for (const typed_matrix* m : {&k.sum, &k.y, &k.dx, &k.dresidual}) {
      index at = 0;
      while (m->get(2, at) == 0) ++at;
      const double kept = m->get(2, at);
      m->set(2, at, kept * wrong);
      CHECK(compare_forward(k, spec).wrong + compare_backward(k, spec, true).wrong > 0);
      m->set(2, at, kept);
    }
    const float kept = k.dgamma[32];
    k.dgamma[32] *= static_cast<float>(wrong);
    CHECK(compare_backward(k, spec, true).wrong == 1);
    k.dgamma[32] = kept;
  }
  CHECK(compare_forward(k, spec).wrong + compare_backward(k, spec, true).wrong == 0);
}

TEST_CASE("fused: same bits for any number of threads, in place, accumulating, and without dresidual") {
  random_numbers random(14);
  on_each_level([&](einkorn::isa) {
    constexpr index rows = 150, cols = 768;
    const sequence packed[] = {{0, 100, 100, 3}, {100, 50, 50, 4}};
    const dropout_spec spec{.p = 0.1f, .seed = 9, .sequences = packed};
    fused_case once(dtype::bf16, dtype::bf16, rows, cols, random);
    once.forward(spec, einkorn::serial_executor());
    once.backward(spec, einkorn::serial_executor());
    fused_case k(dtype::bf16, dtype::bf16, rows, cols, random);
    for (index r = 0; r < rows; ++r)
      for (index c = 0; c < cols; ++c) {
        k.x.set(r, c, once.x.get(r, c));
        k.residual.set(r, c, once.residual.get(r, c));
        k.dy.set(r, c, once.dy.get(r, c));
        k.added.set(r, c, once.added.get(r, c));
      }
    for (index c = 0; c < cols; ++c) {
      k.gamma[c] = once.gamma[c];
      k.beta[c] = once.beta[c];
    }
    with_thread_counts([&](const einkorn::executor& exec) {
      k.forward(spec, exec);
      k.backward(spec, exec);
      CHECK(k.sum.same_bits_as(once.sum));
      CHECK(k.y.same_bits_as(once.y));
      CHECK(k.narrow.same_bits_as(once.narrow));
      CHECK(k.dx.same_bits_as(once.dx));
      CHECK(k.dresidual.same_bits_as(once.dresidual));
      CHECK(same_bits(k.dgamma, once.dgamma));
      CHECK(same_bits(k.dbeta, once.dbeta));
    });
    // dgamma and dbeta added to what is there; dresidual over dy; then nobody wants dresidual.
    for (index c = 0; c < cols; ++c) k.dgamma[c] = k.dbeta[c] = 0;
    einkorn::dropout_residual_layernorm_backward(k.dy, k.sum, span_of(k.gamma), span_of(k.mean),
                                                 span_of(k.rstd), spec, k.dx, {}, span_of(k.dgamma),
                                                 span_of(k.dbeta), {.dy_added = k.added, .accumulate = true});
    CHECK(k.dx.same_bits_as(once.dx));
    CHECK(same_bits(k.dgamma, once.dgamma));
    einkorn::dropout_residual_layernorm_backward(k.dy, k.sum, span_of(k.gamma), span_of(k.mean),
                                                 span_of(k.rstd), spec, k.dx, k.dy, span_of(k.dgamma),
                                                 span_of(k.dbeta), {.dy_added = k.added, .accumulate = true});
    CHECK(k.dx.same_bits_as(once.dx));
    for (index c = 0; c < cols; ++c) CHECK(k.dgamma[c] == 2 * once.dgamma[c]);
    for (index c = 0; c < cols; ++c) CHECK(k.dy.get(rows - 1, c) == once.dresidual.get(rows - 1, c));
    // sum over residual, y over sum
    einkorn::dropout_residual_layernorm(k.x, k.residual, span_of(k.gamma), span_of(k.beta), 1e-12f, spec,
                                        k.residual, k.residual);
    for (index c = 0; c < cols; ++c) CHECK(k.residual.get(rows - 1, c) == once.y.get(rows - 1, c));
  });
}

TEST_CASE("dropout names what is wrong, and writes nothing then") {
  const typed_matrix x(dtype::f32, 4, 8), y(dtype::f32, 4, 8), brief(dtype::bf16, 4, 8);
  guarded_buffer<float> eight(8), four(4), seven(7);
  const sequence gap[] = {{0, 2, 2, 0}, {3, 1, 1, 1}}, few[] = {{0, 3, 3, 0}};
  CHECK_THROWS_WITH_AS(einkorn::dropout(x, y, {.p = 1.0f}), "dropout: dropout probability 1 is not in [0, 1)",
                       einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::dropout(x, y, {.p = std::nanf("")}),
                       "dropout: dropout probability nan is not in [0, 1)", einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::dropout_backward(x, y, {.p = -0.5f}),
                       "dropout_backward: dropout probability -0.5 is not in [0, 1)", einkorn::error);
  // The limit is one of each sample.
  const index half = index{1} << 25;
  const sequence two[] = {{0, half, half, 0}, {half, half, half, 1}}, one[] = {{0, 2 * half, 2 * half, 0}};
  const auto numbers = [&](const einkorn::dropout_spec& spec) {
    return test::error_of([&] { einkorn::detail::require_dropout("dropout", spec, 2 * half, 1024); });
  };
  CHECK(numbers({.p = 0.1f, .sequences = two}) == "no error");
  CHECK(numbers({}) == "no error");
  const std::string most = "dropout: 67108864 x 1024 elements in a sample, dropout can number 2^35";
  CHECK(numbers({.p = 0.1f}) == most);
  CHECK(numbers({.p = 0.1f, .sequences = one}) == most);
  CHECK_THROWS_WITH_AS(einkorn::dropout(x, y, {.sequences = gap}),
                       "dropout: sequences[1] has first_row 3 and 1 rows, expected first_row 2",
                       einkorn::error);
  CHECK_THROWS_WITH_AS(einkorn::dropout(x, y, {.sequences = few}),
                       "dropout: rows of the sequences 3 != rows 4", einkorn::error);
  const auto fused = [&](const any_matrix& residual, const any_output& y_out,
                         const einkorn::layernorm_outputs& o, const guarded_buffer<float>& gamma) {
    einkorn::dropout_residual_layernorm(x, residual, span_of(gamma), span_of(eight), 1e-12f, {}, y, y_out, o);
  };
  CHECK_THROWS_WITH_AS(fused(brief, y, {}, eight),
                       "dropout_residual_layernorm: residual is bf16, expected f32", einkorn::error);
  CHECK_THROWS_WITH_AS(fused(x, y, {}, seven), "dropout_residual_layernorm: gamma.size 7 != x.cols 8",
                       einkorn::error);
  CHECK_THROWS_WITH_AS(fused(x, brief, {.narrow = brief}, eight),
                       "dropout_residual_layernorm: y (with a narrow copy) is bf16, expected f32",
                       einkorn::error);
  CHECK_THROWS_WITH_AS(
      einkorn::dropout_residual_layernorm_backward(x, x, span_of(eight), span_of(four), span_of(four), {}, y,
                                                   y, span_of(eight), span_of(eight)),
      "dropout_residual_layernorm_backward: dx and dresidual are the same matrix", einkorn::error);
  for (index r = 0; r < 4; ++r)
    for (index c = 0; c < 8; ++c) CHECK(std::isnan(y.get(r, c)));
}

}  // namespace
