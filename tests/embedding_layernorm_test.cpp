// embedding_layernorm_dropout and its backward: the bits of the operations that it fuses, and the reference.
#include "rowwise_support.hpp"

#include <einkorn/reference/dropout.hpp>
#include <einkorn/reference/embedding.hpp>
#include <einkorn/reference/layernorm.hpp>

namespace {

using namespace test;
using einkorn::dropout_spec;
using einkorn::index;
using einkorn::sequence;

constexpr index words = 23, positions = 12, types = 2;
constexpr double unit = 0x1p-23;

struct problem {
  index rows = 0, cols;
  std::vector<std::int32_t> word_ids, type_ids;
  std::vector<sequence> sequences;
  guarded_matrix<float> word, position, type;
  guarded_buffer<float> gamma, beta;

  problem(index cols_, random_numbers& random)
      : cols(cols_),
        word(words, cols, 3, 1),
        position(positions, cols),
        type(types, cols, 1),
        gamma(random_vector(cols, random, 0.5f, 1)),
        beta(random_vector(cols, random)) {
    for (const std::int32_t length : {5, 0, 12, 1, 7}) {
      sequences.push_back({rows, length, length, static_cast<std::uint32_t>(40 - rows)});
      for (std::int32_t i = 0; i < length; ++i) {
        word_ids.push_back(static_cast<std::int32_t>(random.below(3) == 0 ? random.below(words) : 2));
        type_ids.push_back(static_cast<std::int32_t>(random.below(types)));
      }
      rows += length;
    }
    for (const auto* table : {&word, &position, &type}) fill_random(table->view(), random);
  }
  einkorn::embedding_tokens tokens() const { return {word_ids, type_ids, sequences}; }
  einkorn::embedding_tables tables() const {
    return {word.const_view(), position.const_view(), type.const_view()};
  }
  dropout_spec spec(float p) const {
    return {.p = p, .seed = 0x9876543210fedcbau, .step = 5, .site = 9, .sequences = sequences};
  }
};

struct outputs {
  typed_matrix sum, y, narrow;
  guarded_buffer<float> mean, rstd;
  outputs(const problem& k, dtype y_type, dtype narrow_type)
      : sum(dtype::f32, k.rows, k.cols, 2, 1),
        y(y_type, k.rows, k.cols, 3),
        narrow(narrow_type, k.rows, k.cols, 1),
        mean(k.rows),
        rstd(k.rows) {}
  einkorn::layernorm_outputs extra(bool with_narrow) const {
    return {.narrow = with_narrow ? any_output(narrow) : any_output(),
            .mean = span_of(mean),
            .rstd = span_of(rstd)};
  }
  bool same_bits_as(const outputs& o) const {
    return sum.same_bits_as(o.sum) && y.same_bits_as(o.y) && narrow.same_bits_as(o.narrow) &&
           same_bits(mean, o.mean) && same_bits(rstd, o.rstd);
  }
  bool intact() const { return sum.intact() && y.intact() && narrow.intact(); }
};

constexpr float eps = 1e-12f;

void fused(const problem& k, float p, const outputs& out, bool with_narrow, const einkorn::executor& exec) {
  einkorn::embedding_layernorm_dropout(k.tokens(), k.tables(), span_of(k.gamma), span_of(k.beta), eps,
                                       k.spec(p), out.sum, out.y, out.extra(with_narrow), exec);
}

error_count compare(const problem& k, float p, const outputs& out) {
  error_count errors;
  const std::vector<double> sums = einkorn::reference::embedding(k.tokens(), k.tables());
  const auto cols = static_cast<std::size_t>(k.cols);
  for (index r = 0; r < k.rows; ++r) {
    // The truth of y starts at the sum that the kernel stored, whose own error is small.
    const std::vector<double> sum = out.sum.row(r);
    std::vector<double> expected(cols);
    const einkorn::reference::moments m = einkorn::reference::layernorm_row(
        sum, doubles(k.gamma), doubles(k.beta), static_cast<double>(eps), expected);
    double largest = 0;
    for (const double v : sum) largest = std::fmax(largest, std::abs(v));
    const double e = (4 + largest * m.rstd) * (2 + static_cast<double>(cols) / 32) * unit;
    for (index c = 0; c < k.cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      errors.add(out.sum.get(r, c), sums[static_cast<std::size_t>(r) * cols + i], 4 * 0x1p-24);
      const double factor = p == 0 ? 1 : einkorn::reference::dropout_factor(k.spec(p), r, c, k.cols);
      const double g = static_cast<double>(k.gamma[c]), xhat = (sum[i] - m.mean) * m.rstd;
      const double bound =
          e * (1 + e) * (std::abs(xhat * g) + std::abs(g)) + unit * (std::abs(expected[i]) + 2);
      errors.add(out.y.get(r, c), expected[i] * factor,
                 factor * bound + eps_of_type(out.y.type()) * std::abs(expected[i] * factor) +
                     (factor == 0 ? 0 : tiny_of_type(out.y.type())));
    }
  }
  return errors;
}

TEST_CASE("forward: the reference, and the bits of the four operations, for every type and level") {
  random_numbers random(3);
  on_each_level([&](einkorn::isa) {
    for (const index cols : row_lengths())
      for (const dtype y_type : real_types)
        for (const float p : {0.0f, 0.1f, 0.6f}) {
          CAPTURE(cols);
          CAPTURE(p);
          const problem k(cols, random);
          const bool with_narrow = y_type == dtype::f32 && p < 0.5f;
          const dtype narrow_type = p == 0 ? dtype::fp16 : dtype::bf16;
          const outputs out(k, y_type, narrow_type), apart(k, y_type, narrow_type);
          fused(k, p, out, with_narrow, einkorn::default_executor());
          const error_count errors = compare(k, p, out);
          CHECK(errors.wrong == 0);
          CHECK(errors.seen == 2 * k.rows * cols);
          CHECK(out.intact());

          const typed_matrix f32(dtype::f32, k.rows, cols);
          einkorn::embedding(k.tokens(), k.tables(), apart.sum);
          einkorn::layernorm(apart.sum, span_of(k.gamma), span_of(k.beta), eps, f32,
                             {.narrow = {}, .mean = span_of(apart.mean), .rstd = span_of(apart.rstd)});
          einkorn::dropout(f32, f32, k.spec(p));
          einkorn::convert(f32, apart.y);
          if (with_narrow) einkorn::convert(f32, apart.narrow);
          CHECK(out.same_bits_as(apart));

          // In place, where no backward follows.
          if (y_type == dtype::f32) {
            const outputs once(k, y_type, narrow_type);
            einkorn::embedding_layernorm_dropout(k.tokens(), k.tables(), span_of(k.gamma), span_of(k.beta),
                                                 eps, k.spec(p), f32, f32, once.extra(false));
            einkorn::convert(f32, once.y);
            CHECK(once.y.same_bits_as(out.y));
          }
        }
  });
}

TEST_CASE("the comparison finds a wrong element and a NaN") {
  random_numbers random(4);
  const problem k(40, random);
  const outputs out(k, dtype::f32, dtype::bf16);
  fused(k, 0.1f, out, false, einkorn::default_executor());
  CHECK(compare(k, 0.1f, out).wrong == 0);
  const double kept = out.y.get(3, 39);
  out.y.set(3, 39, kept + 1e-3);
  CHECK(compare(k, 0.1f, out).wrong == 1);
  out.y.set(3, 39, std::nan(""));
  CHECK(compare(k, 0.1f, out).wrong == 1);
}

struct gradients {
  guarded_matrix<float> word, position, type;
  guarded_buffer<float> dgamma, dbeta;
  typed_matrix dsum;
  gradients(const problem& k, random_numbers random)
      : word(words, k.cols, 1),
        position(positions, k.cols),
        type(types, k.cols, 2),
        dgamma(random_vector(k.cols, random)),
        dbeta(random_vector(k.cols, random)),
        dsum(dtype::f32, k.rows, k.cols, 1) {
    for (const auto* table : {&word, &position, &type}) fill_random(table->view(), random);
  }
  einkorn::embedding_gradients tables() const { return {word.view(), position.view(), type.view()}; }
  bool same_bits_as(const gradients& o) const {
    return same_bits(word.memory, o.word.memory) && same_bits(position.memory, o.position.memory) &&
           same_bits(type.memory, o.type.memory) && same_bits(dgamma, o.dgamma) &&
           same_bits(dbeta, o.dbeta) && dsum.same_bits_as(o.dsum);
  }
};

TEST_CASE("backward: the bits of the three operations, in place, for any number of threads and level") {
  random_numbers random(5);
  on_each_level([&](einkorn::isa) {
    for (const index cols : row_lengths())
      for (const dtype dy_type : real_types)
        for (const float p : {0.0f, 0.3f}) {
          CAPTURE(cols);
          CAPTURE(p);
          const problem k(cols, random);
          const outputs out(k, dtype::f32, dtype::bf16);
          fused(k, p, out, false, einkorn::serial_executor());
          const typed_matrix dy(dy_type, k.rows, cols, 4), masked(dtype::f32, k.rows, cols);
          dy.fill(random);
          const gradients apart(k, random_numbers(6));
          einkorn::dropout_backward(dy, masked, k.spec(p));
          einkorn::layernorm_backward(masked, out.sum, span_of(k.gamma), span_of(out.mean), span_of(out.rstd),
                                      apart.dsum, span_of(apart.dgamma), span_of(apart.dbeta), true);
          einkorn::embedding_backward(apart.dsum, k.tokens(), apart.tables(), 2);
          const auto run = [&](const any_matrix& from, const any_output& dsum, const gradients& to,
                               const einkorn::executor& exec) {
            einkorn::embedding_layernorm_dropout_backward(
                from, k.tokens(), out.sum, span_of(k.gamma), span_of(out.mean), span_of(out.rstd), k.spec(p),
                dsum, span_of(to.dgamma), span_of(to.dbeta), to.tables(),
                {.padding_id = 2, .accumulate = true}, exec);
          };
          with_thread_counts([&](const einkorn::executor& exec) {
            const gradients once(k, random_numbers(6));
            run(dy, once.dsum, once, exec);
            CHECK(once.same_bits_as(apart));
            CHECK(once.dsum.intact());
          });
          if (dy_type == dtype::f32) {  // dsum in place of dy
            const gradients once(k, random_numbers(6));
            for (index r = 0; r < k.rows; ++r)
              for (index c = 0; c < cols; ++c) once.dsum.set(r, c, dy.get(r, c));
            run(once.dsum, once.dsum, once, einkorn::default_executor());
            CHECK(once.same_bits_as(apart));
          }
        }
  });
}

TEST_CASE("forward has the same bits for any number of threads and either kind of store") {
  random_numbers random(7);
  on_each_level([&](einkorn::isa) {
    const problem k(768, random);
    const outputs once(k, dtype::f32, dtype::bf16);
    fused(k, 0.1f, once, true, einkorn::serial_executor());
    with_either_store([&] {
      with_thread_counts([&](const einkorn::executor& exec) {
        const outputs again(k, dtype::f32, dtype::bf16);
        fused(k, 0.1f, again, true, exec);
        CHECK(again.same_bits_as(once));
      });
    });
  });
}

TEST_CASE("what is wrong is named, and nothing written then") {
  random_numbers random(8);
  const problem k(8, random);
  const outputs out(k, dtype::f32, dtype::bf16);
  guarded_buffer<float> seven(7);
  const auto run = [&](const any_output& sum, const guarded_buffer<float>& gamma, float p) {
    einkorn::embedding_layernorm_dropout(k.tokens(), k.tables(), span_of(gamma), span_of(k.beta), eps,
                                         k.spec(p), sum, out.y, out.extra(false));
  };
  CHECK_THROWS_WITH_AS(run(out.narrow, k.gamma, 0), "embedding_layernorm_dropout: sum is bf16, expected f32",
                       einkorn::error);
  CHECK_THROWS_WITH_AS(run(out.sum, seven, 0), "embedding_layernorm_dropout: gamma.size 7 != x.cols 8",
                       einkorn::error);
  CHECK_THROWS_AS(run(out.sum, k.gamma, 1), einkorn::error);
  for (index r = 0; r < k.rows; ++r)
    for (index c = 0; c < k.cols; ++c) {
      CHECK(std::isnan(out.sum.get(r, c)));
      CHECK(std::isnan(out.y.get(r, c)));
    }
}

}  // namespace
