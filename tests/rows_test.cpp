// What every row-wise kernel promises, at every level (amx through the emulator where the CPU has none): rows
// of length 0, 1 and 100,000, strides and misaligned starts, the same bits for any number of threads, either
// kind of store and any address; and at 100,000 columns the references, once more beside the tests of each
// operation.
#include "rowwise_support.hpp"

#include <einkorn/reference/activation.hpp>
#include <einkorn/reference/layernorm.hpp>
#include <einkorn/reference/loss.hpp>
#include <einkorn/testing/amx_emulator.hpp>

#include <functional>
#include <map>

namespace {

using namespace test;
using einkorn::dropout_spec;
using einkorn::executor;
using einkorn::index;

constexpr double unit = 0x1p-23;

/// The operands of a call: matrices with a stride, starting `slack` elements before the alignment.
struct operands {
  index rows, cols;
  dtype type;
  typed_matrix a, b, f32, out, wide_out;
  guarded_buffer<float> gamma, beta, mean, rstd, dgamma, dbeta;
  std::vector<std::int32_t> lengths, targets;
  double loss = 0;

  operands(dtype type_, index rows_, index cols_, index padding, index slack)
      : rows(rows_),
        cols(cols_),
        type(type_),
        a(type, rows, cols, padding, slack),
        b(type, rows, cols, padding, slack),
        f32(dtype::f32, rows, cols, padding, slack),
        out(type, rows, cols, padding, slack),
        wide_out(dtype::f32, rows, cols, padding, slack),
        mean(rows),
        rstd(rows),
        dgamma(cols),
        dbeta(cols) {
    random_numbers random(1234);  // the same numbers whatever the addresses
    a.fill(random, 3);
    b.fill(random);
    f32.fill(random, 2, 0.5f);
    gamma = random_vector(cols, random, 0.5f, 1);
    beta = random_vector(cols, random);
    for (index r = 0; r < rows; ++r) {
      mean[r] = 0.1f * random.real();
      rstd[r] = 0.6f + 0.1f * random.real();
      lengths.push_back(static_cast<std::int32_t>(r % 4 == 0 ? cols : cols * (r % 4) / 4));
      targets.push_back(
          lengths.back() > 0 && r % 5 != 3 ? static_cast<std::int32_t>(random.below(lengths.back())) : -100);
    }
    for (index c = 0; c < cols; ++c) dgamma[c] = dbeta[c] = 0.25f;
  }
  /// Everything that a kernel may have written, rows without what stands between them.
  std::vector<double> results() const {
    std::vector<double> all = {loss};
    for (const typed_matrix* m : {&out, &wide_out})
      for (index r = 0; r < rows; ++r)
        for (const double v : m->row(r)) all.push_back(v);
    for (const guarded_buffer<float>* v : {&mean, &rstd, &dgamma, &dbeta})
      for (const float x : *v) all.push_back(static_cast<double>(x));
    return all;
  }
  bool intact() const {
    return a.intact() && b.intact() && f32.intact() && out.intact() && wide_out.intact() && mean.intact() &&
           rstd.intact() && dgamma.intact() && dbeta.intact();
  }
};

bool same_values(const std::vector<double>& x, const std::vector<double>& y) {
  return x.size() == y.size() &&
         (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) == 0);
}

const dropout_spec spec{.p = 0.2f, .seed = 99, .step = 3, .site = 1, .sequences = {}};

using kernel = std::function<void(operands&, const executor&)>;
const std::map<std::string, kernel>& kernels() {
  static const std::map<std::string, kernel> all = {
      {"softmax",
       [](operands& o, const executor& e) {
         einkorn::softmax(o.a, o.out,
                          {.scale = 0.7f, .mask = {}, .lengths = o.lengths, .lse = span_of(o.mean)}, e);
       }},
      {"softmax_backward",
       [](operands& o, const executor& e) { einkorn::softmax_backward(o.a, o.b, o.out, 0.5f, e); }},
      {"layernorm",
       [](operands& o, const executor& e) {
         einkorn::layernorm(o.a, span_of(o.gamma), span_of(o.beta), 1e-5f, o.out,
                            {.narrow = {}, .mean = span_of(o.mean), .rstd = span_of(o.rstd)}, e);
       }},
      {"layernorm_backward",
       [](operands& o, const executor& e) {
         einkorn::layernorm_backward(o.a, o.b, span_of(o.gamma), span_of(o.mean), span_of(o.rstd), o.out,
                                     span_of(o.dgamma), span_of(o.dbeta), true, e);
       }},
      {"layernorm_backward of mixed types",
       [](operands& o, const executor& e) {
         einkorn::layernorm_backward(o.a, o.f32, span_of(o.gamma), span_of(o.mean), span_of(o.rstd),
                                     o.wide_out, span_of(o.dgamma), span_of(o.dbeta), false, e);
       }},
      {"dropout", [](operands& o, const executor& e) { einkorn::dropout(o.a, o.out, spec, e); }},
      {"dropout_residual_layernorm",
       [](operands& o, const executor& e) {
         einkorn::dropout_residual_layernorm(
             o.a, o.f32, span_of(o.gamma), span_of(o.beta), 1e-5f, spec, o.wide_out, o.out,
             {.narrow = {}, .mean = span_of(o.mean), .rstd = span_of(o.rstd)}, e);
       }},
      {"dropout_residual_layernorm_backward",
       [](operands& o, const executor& e) {
         einkorn::dropout_residual_layernorm_backward(o.a, o.f32, span_of(o.gamma), span_of(o.mean),
                                                      span_of(o.rstd), spec, o.out, o.wide_out,
                                                      span_of(o.dgamma), span_of(o.dbeta), {}, e);
       }},
      {"gelu", [](operands& o, const executor& e) { einkorn::gelu(o.a, o.out, einkorn::gelu_form::erf, e); }},
      {"gelu of mixed types",
       [](operands& o, const executor& e) { einkorn::gelu(o.a, o.wide_out, einkorn::gelu_form::tanh, e); }},
      {"gelu_backward",
       [](operands& o, const executor& e) {
         einkorn::gelu_backward(o.a, o.b, o.out, {}, einkorn::gelu_form::erf, e);
       }},
      {"gelu_backward with column sums",
       [](operands& o, const executor& e) {
         einkorn::gelu_backward(o.a, o.b, o.out, span_of(o.dbeta), einkorn::gelu_form::erf, e);
       }},
      {"column_sum",
       [](operands& o, const executor& e) { einkorn::column_sum(o.a, span_of(o.dbeta), false, e); }},
      {"cross_entropy",
       [](operands& o, const executor& e) {
         o.loss = einkorn::cross_entropy(
             o.a, o.targets, {.ignore_outside = true, .lengths = o.lengths, .divisor = 3}, o.out, e);
       }},
  };
  return all;
}

TEST_CASE("the same bits for any threads, store and address; rows of 0, 1 and 100,000") {
  const einkorn::testing::amx_emulator emulator;
  const index longest = quick() ? 5000 : 100000;
  on_each_level([&](einkorn::isa) {
    for (const auto& [name, run] : kernels())
      for (const dtype type : real_types)
        for (const index cols : {index{0}, index{1}, index{97}, index{768}, longest}) {
          if (cols == longest && type == dtype::fp16) continue;
          const index rows = cols == 768 ? 70 : cols == longest ? 3 : 9;
          INFO(name, " ", einkorn::name(type), " ", rows, " x ", cols);
          operands once(type, rows, cols, 0, 0);
          run(once, einkorn::serial_executor());
          CHECK(once.intact());
          const std::vector<double> expected = once.results();
          // Rows at multiples of 64 bytes, so that they are streamed; then strides and starts that are none.
          const index to_line = (64 - cols % 64) % 64;
          for (const index padding : {to_line, index{5}})
            for (const index slack : {to_line, index{1}}) {
              if ((cols == longest || quick()) && (padding == to_line) != (slack == to_line)) continue;
              with_either_store([&] {
                thread_executor two(2), three(3);
                for (const executor& exec : {einkorn::serial_executor(), executor(two), executor(three)}) {
                  if ((cols == longest || quick()) && exec.threads == 2) continue;
                  operands again(type, rows, cols, padding, slack);
                  run(again, exec);
                  CHECK(same_values(again.results(), expected));
                  CHECK(again.intact());
                }
              });
            }
        }
  });
}

TEST_CASE("rows of 100,000: layernorm, the fused pass, GELU's column sums and cross-entropy") {
  const einkorn::testing::amx_emulator emulator;
  const index cols = quick() ? 5000 : 100000;
  on_each_level([&](einkorn::isa) {
    for (const dtype type : {dtype::f32, dtype::bf16}) {
      INFO(einkorn::name(type));
      operands o(type, 3, cols, 3, 1);
      const auto n = static_cast<std::size_t>(cols);
      const std::vector<double> gamma = doubles(o.gamma), beta = doubles(o.beta);
      const auto check_rows = [&](const typed_matrix& x, const typed_matrix& y) {
        error_count errors;
        for (index r = 0; r < 3; ++r) {
          const std::vector<double> row = x.row(r);
          std::vector<double> expected(n);
          const einkorn::reference::moments m =
              einkorn::reference::layernorm_row(row, gamma, beta, 1e-5, expected);
          double largest = 0;
          for (const double v : row) largest = std::fmax(largest, std::abs(v));
          const double u = (2 + static_cast<double>(cols) / 32) * unit, s = largest * m.rstd;
          for (index c = 0; c < cols; ++c) {
            const auto i = static_cast<std::size_t>(c);
            const double xhat = (row[i] - m.mean) * m.rstd;
            errors.add(y.get(r, c), expected[i],
                       (4 + s) * u * (std::abs(xhat * gamma[i]) + std::abs(gamma[i])) +
                           (unit + eps_of_type(type)) * (std::abs(expected[i]) + std::abs(beta[i])));
          }
        }
        return errors.wrong;
      };
      kernels().at("layernorm")(o, einkorn::default_executor());
      CHECK(check_rows(o.a, o.out) == 0);
      kernels().at("dropout_residual_layernorm")(o, einkorn::default_executor());
      CHECK(check_rows(o.wide_out, o.out) == 0);

      error_count errors;
      kernels().at("gelu_backward with column sums")(o, einkorn::default_executor());
      for (index c = 0; c < cols; ++c) {
        double sum = 0.25, size = 0.25;
        for (index r = 0; r < 3; ++r) {
          const double d = o.a.get(r, c) *
                           einkorn::reference::activate_derivative(einkorn::activation::gelu, o.b.get(r, c));
          sum += d;
          size += std::abs(d) + std::abs(o.a.get(r, c));
        }
        errors.add(static_cast<double>(o.dbeta[c]), sum, size * 12 * unit);
      }
      CHECK(errors.wrong == 0);

      kernels().at("cross_entropy")(o, einkorn::default_executor());
      const auto expected = einkorn::reference::cross_entropy(
          o.a, o.targets, {.ignore_outside = true, .lengths = o.lengths, .divisor = 3});
      const double bound = (8 + static_cast<double>(cols) / 64 + 2 * 3) * unit;
      CHECK(within(o.loss, expected.loss, bound));
      for (index r = 0; r < 3; ++r)
        for (index c = 0; c < cols; ++c) {
          const double e = expected.dlogits[static_cast<std::size_t>(r) * n + static_cast<std::size_t>(c)];
          errors.add(o.out.get(r, c), e, bound / 3 + eps_of_type(type) * std::abs(e));
        }
      CHECK(errors.wrong == 0);
    }
  });
}

TEST_CASE("NaN and infinity beyond a row's length do not leak, and rows without elements give 0") {
  const einkorn::testing::amx_emulator emulator;
  on_each_level([&](einkorn::isa) {
    for (const dtype type : real_types)
      for (const index cols : {index{4}, index{97}, index{768}}) {
        INFO(einkorn::name(type), " ", cols);
        operands clean(type, 9, cols, 0, 0), dirty(type, 9, cols, 0, 0);
        clean.lengths[2] = dirty.lengths[2] = 0;  // fully masked
        clean.targets[2] = dirty.targets[2] = -100;
        for (index r = 0; r < 9; ++r)
          for (index c = dirty.lengths[static_cast<std::size_t>(r)]; c < cols; ++c)
            dirty.a.set(r, c, c % 2 == 0 ? std::nan("") : std::numeric_limits<double>::infinity());
        for (const char* name : {"softmax", "cross_entropy"}) {
          kernels().at(name)(clean, einkorn::default_executor());
          kernels().at(name)(dirty, einkorn::default_executor());
          CHECK(same_values(clean.results(), dirty.results()));
          for (index c = 0; c < cols; ++c) CHECK(dirty.out.get(2, c) == 0);
        }
      }
  });
}

}  // namespace
