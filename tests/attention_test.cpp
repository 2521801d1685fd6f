// Attention and its gradients on every level (amx through the emulator where there are no tiles) against
// reference/attention.hpp, with bounds that follow each rounding through the formulas; masks, lengths around
// every block, NaN behind a mask, threads, errors.
#include "support.hpp"

#include <einkorn/reference/attention.hpp>
#include <einkorn/testing/amx_emulator.hpp>

namespace test {

using namespace einkorn;

namespace {

std::size_t at(index i) { return static_cast<std::size_t>(i); }

template <class Body>
void on_each_level_and_amx(const Body& body) {
  const testing::amx_emulator emulator;
  on_each_level(body);
}

/// The gradient of a scalar with respect to out is dout; everything the kernels read and write.
template <class T>
struct problem {
  std::vector<sequence> sequences;
  index rows = 0, hidden;
  attention_options options;
  test::guarded_matrix<T> qkv, out, dout, dqkv;
  test::guarded_buffer<float> lse;

  problem(std::vector<sequence> sequences_, int heads, index width, float p, float scale = 1)
      : sequences(std::move(sequences_)), hidden(heads * width) {
    for (const sequence& s : sequences) rows = std::max(rows, s.first_row + s.rows);
    options.heads = heads;
    options.dropout = {.p = p, .seed = 77, .step = 3, .site = 5, .sequences = {}};
    qkv = {rows, 3 * hidden, 5};
    out = {rows, hidden, 3};
    dout = {rows, hidden, 1};
    dqkv = {rows, 3 * hidden, 2};
    lse = test::guarded_buffer<float>(heads * rows);
    test::random_numbers random(static_cast<std::uint64_t>(rows * 31 + width));
    test::fill_random(qkv.view(), random, scale);
    test::fill_random(dout.view(), random);
  }
  void forward(const executor& exec = serial_executor()) {
    attention(qkv.const_view(), sequences, out.view(), {lse.data(), at(lse.size())}, options, exec);
  }
  void backward(const executor& exec = serial_executor()) {
    attention_backward(qkv.const_view(), out.const_view(), dout.const_view(), {lse.data(), at(lse.size())},
                       sequences, dqkv.view(), options, exec);
  }
};

/// Worst error over its bound, of the outputs and of the gradients; above 1 or NaN is wrong.
struct verdict {
  double out = 0, lse = 0, gradients = 0;
  static void add(double& worst, double actual, double expected, double bound) {
    const double share = std::abs(actual - expected) / bound;
    worst = share <= worst ? worst : share > worst ? share : std::numeric_limits<double>::infinity();  // NaN
  }
};

template <class T>
verdict judge(const problem<T>& p) {
  verdict worst;
  const int heads = p.options.heads;
  const index width = p.hidden / heads, hidden = p.hidden;
  const double f = 0x1p-23, eps = test::eps_of<T>;
  const double scale =
      p.options.scale != 0 ? static_cast<double>(p.options.scale) : 1 / std::sqrt(static_cast<double>(width));
  const double tiny = test::tiny_of<T>;
  const auto qkv = p.qkv.const_view();
  const auto dout = p.dout.const_view();
  std::vector<double> out(at(p.rows * hidden)), lse(at(heads * p.rows)), grad(at(p.rows * 3 * hidden));
  const matrix_view<double> out_view(out.data(), p.rows, hidden), grad_view(grad.data(), p.rows, 3 * hidden);
  reference::attention(qkv, p.sequences, out_view, lse, p.options);
  reference::attention_backward(qkv, dout, p.sequences, grad_view, p.options);

  for (const sequence& s : p.sequences)
    for (int head = 0; head < heads; ++head) {
      const index qc = head * width, kc = hidden + qc, vc = kc + hidden, first = s.first_row,
                  keys = s.key_count();
      std::vector<double> unused, dk(at(keys * width)), dv(at(keys * width));
      const auto probability = reference::attention_probabilities(qkv, s, head, heads, scale, unused);
      const auto value = [&](index row, index col) { return static_cast<double>(qkv(first + row, col)); };
      for (index i = 0; i < s.rows; ++i) {
        // Relative error of a probability: twice that of a score in absolute terms, exp, sum and division.
        double score_error = 0;
        for (index j = 0; j < keys; ++j) {
          double sum = 0;
          for (index c = 0; c < width; ++c) sum += std::abs(value(i, qc + c) * value(j, kc + c));
          score_error = std::max(score_error, sum * std::abs(scale) * f * static_cast<double>(width + 4));
        }
        const double relative = 2 * score_error + f * static_cast<double>(keys + 16);
        if (keys > 0)
          verdict::add(worst.lse, static_cast<double>(p.lse[head * p.rows + first + i]),
                       lse[at(head * p.rows + first + i)],
                       relative + 4 * f * (1 + std::abs(lse[at(head * p.rows + first + i)])));
        std::vector<double> keep(at(keys));
        for (index j = 0; j < keys; ++j)
          keep[at(j)] = reference::attention_keep(p.options.dropout, s, head, i, j);
        double d_error = 0, inner = 0;
        for (index c = 0; c < width; ++c) {
          double sum = 0, values = 0;
          for (index j = 0; j < keys; ++j) {
            sum += probability[at(i * keys + j)] * keep[at(j)] * std::abs(value(j, vc + c));
            values += std::abs(value(j, vc + c));
          }
          const double expected = out_view(first + i, qc + c);
          const double bound = 2 * ((relative + eps) * sum + tiny * (values + 1) + eps * std::abs(expected));
          verdict::add(worst.out, static_cast<double>(p.out.view()(first + i, qc + c)), expected, bound);
          const double g = std::abs(static_cast<double>(dout(first + i, qc + c)));
          d_error += g * (bound + f * static_cast<double>(width) * std::abs(expected));
          inner += static_cast<double>(dout(first + i, qc + c)) * expected;
        }
        std::vector<double> dq(at(width));
        for (index j = 0; j < keys; ++j) {
          double dp = 0, magnitude = 0;
          for (index c = 0; c < width; ++c) {
            const double x = static_cast<double>(dout(first + i, qc + c)) * value(j, vc + c);
            dp += x;
            magnitude += std::abs(x);
          }
          const double weight = probability[at(i * keys + j)], k = keep[at(j)];
          const double ds = weight * (dp * k - inner);
          const double ds_error = weight * relative * (std::abs(dp * k - inner) + d_error) +
                                  weight * (k * f * static_cast<double>(width + 2) * magnitude + d_error) +
                                  (eps + f * static_cast<double>(s.rows + keys)) * std::abs(ds) + tiny;
          for (index c = 0; c < width; ++c) {
            dq[at(c)] += std::abs(scale) * ds_error * std::abs(value(j, kc + c));
            dk[at(j * width + c)] += std::abs(scale) * ds_error * std::abs(value(i, qc + c));
            dv[at(j * width + c)] +=
                (weight * k * (relative + eps + f * static_cast<double>(s.rows)) + tiny) *
                std::abs(static_cast<double>(dout(first + i, qc + c)));
          }
        }
        for (index c = 0; c < width; ++c) {
          const double expected = grad_view(first + i, qc + c);
          verdict::add(worst.gradients, static_cast<double>(p.dqkv.view()(first + i, qc + c)), expected,
                       2 * (dq[at(c)] + eps * std::abs(expected) + tiny));
        }
      }
      for (index j = 0; j < s.rows; ++j)
        for (index c = 0; c < width; ++c)
          for (const index column : {kc, vc}) {
            const double expected = grad_view(first + j, column + c);
            const double error = j >= keys ? 0 : (column == kc ? dk : dv)[at(j * width + c)];
            verdict::add(worst.gradients, static_cast<double>(p.dqkv.view()(first + j, column + c)), expected,
                         2 * (error + eps * std::abs(expected) + tiny));
          }
    }
  return worst;
}

std::vector<sequence> packed(std::initializer_list<int> lengths) {
  std::vector<sequence> result;
  index row = 0;
  for (const int n : lengths) {
    result.push_back({row, n, n, static_cast<std::uint32_t>(result.size() + 10)});
    row += n;
  }
  return result;
}

}  // namespace

TEST_CASE_TEMPLATE("forward and backward agree with the reference", T, float, bf16, fp16) {
  struct shape {
    std::vector<sequence> sequences;
    int heads;
    index width;
    float p;
  };
  std::vector<shape> shapes = {
      {packed({1}), 1, 8, 0},
      {packed({5, 1, 17}), 2, 16, 0},
      {packed({33, 15}), 3, 20, 0.1f},
      {{{0, 40, 31, 2}, {40, 40, 40, 3}, {80, 40, 1, 4}, {120, 40, 0, 9}}, 2, 32, 0.1f},  // padded
      {packed({129, 128}), 1, 7, 0.5f},
      {{{0, 193, 129, 1}, {193, 192, 127, 2}}, 1, 33, 0.2f},  // blocks of the backward pass, and one more
      {packed({13, 14, 15, 31, 32, 33}), 1, 65, 0.1f},        // tiles of every level
  };
  if (!test::quick()) {
    shapes.push_back({{{0, 384, 384, 0}, {384, 384, 300, 1}}, 2, 64, 0.1f});
    shapes.push_back({packed({511, 512, 513}), 1, 4, 0.1f});  // blocks of keys of the forward pass
    shapes.push_back({packed({1100}), 1, 8, 0});
  }
  verdict worst;
  on_each_level_and_amx([&](isa) {
    for (const shape& s : shapes) {
      INFO("rows ", s.sequences.back().first_row + s.sequences.back().rows, " width ", s.width, " p ", s.p);
      problem<T> p(s.sequences, s.heads, s.width, s.p);
      p.forward();
      p.backward();
      const verdict v = judge(p);
      CHECK(v.out <= 1);
      CHECK(v.lse <= 1);
      CHECK(v.gradients <= 1);
      CHECK((p.out.intact() && p.dqkv.intact() && p.lse.intact() && p.qkv.intact() && p.dout.intact()));
      worst.out = std::fmax(worst.out, v.out);
      worst.lse = std::fmax(worst.lse, v.lse);
      worst.gradients = std::fmax(worst.gradients, v.gradients);
    }
  });
  MESSAGE("worst error / bound: out ", worst.out, ", lse ", worst.lse, ", gradients ", worst.gradients);
}

TEST_CASE("the verdict finds a wrong number and a NaN") {
  problem<bf16> p(packed({9, 4}), 2, 8, 0.1f);
  p.forward();
  p.backward();
  REQUIRE(judge(p).gradients <= 1);
  const auto spoil = [&](test::guarded_matrix<bf16>& m, bf16 value) {
    const bf16 before = m.view()(3, 5);
    m.view()(3, 5) = value;
    const verdict v = judge(p);
    m.view()(3, 5) = before;
    return !(v.out <= 1 && v.gradients <= 1);
  };
  CHECK(spoil(p.out, bf16(static_cast<float>(p.out.view()(3, 5)) + 0.25f)));
  CHECK(spoil(p.out, bf16(NAN)));
  CHECK(spoil(p.dqkv, bf16(static_cast<float>(p.dqkv.view()(3, 5)) + 0.25f)));
  CHECK(spoil(p.dqkv, bf16(NAN)));
}

TEST_CASE("the reference's gradients are the slopes of its outputs") {
  const std::vector<sequence> sequences = {{0, 4, 3, 1}, {4, 3, 3, 2}};
  const index rows = 7, hidden = 6;
  attention_options options{
      .heads = 2, .scale = 0, .dropout = {.p = 0.3f, .seed = 1, .step = 2, .site = 3, .sequences = {}}};
  std::vector<double> x(rows * 3 * hidden), dout(rows * hidden), out(rows * hidden), lse(2 * rows);
  test::random_numbers random(5);
  for (double& v : x) v = static_cast<double>(random.real());
  for (double& v : dout) v = static_cast<double>(random.real());
  std::vector<double> grad(x.size());
  const matrix_view<const double> qkv(x.data(), rows, 3 * hidden);
  reference::attention_backward(qkv, matrix_view<const double>(dout.data(), rows, hidden), sequences,
                                matrix_view<double>(grad.data(), rows, 3 * hidden), options);
  const auto loss = [&] {
    reference::attention(qkv, sequences, matrix_view<double>(out.data(), rows, hidden), lse, options);
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
    return sum;
  };
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double h = 1e-5, before = x[i];
    x[i] = before + h;
    const double above = loss();
    x[i] = before - h;
    const double below = loss();
    x[i] = before;
    CHECK(std::abs((above - below) / (2 * h) - grad[i]) <= 1e-8);
  }
}

TEST_CASE_TEMPLATE("the same bits for any number of threads", T, float, bf16, fp16) {
  // Lengths that are cut into other blocks of queries when there are more threads.
  const std::vector<sequence> sequences = {{0, 50, 37, 4}, {50, 210, 210, 8}};
  on_each_level_and_amx([&](isa) {
    problem<T> first(sequences, 3, 16, 0.1f);
    first.forward();
    first.backward();
    test::with_thread_counts([&](const executor& exec) {
      problem<T> again(sequences, 3, 16, 0.1f);
      again.forward(exec);
      again.backward(exec);
      CHECK(test::same_bits(first.out.memory, again.out.memory));
      CHECK(test::same_bits(first.lse, again.lse));
      CHECK(test::same_bits(first.dqkv.memory, again.dqkv.memory));
    });
  });
}

TEST_CASE("the same bits padded, packed, and beside other sequences") {
  on_each_level_and_amx([&](isa) {
    problem<bf16> alone({{0, 37, 37, 4}}, 2, 16, 0.1f),
        beside({{0, 11, 11, 1}, {11, 50, 37, 4}}, 2, 16, 0.1f);
    for (index row = 0; row < 37; ++row) {
      std::copy_n(&alone.qkv.view()(row, 0), 96, &beside.qkv.view()(11 + row, 0));
      std::copy_n(&alone.dout.view()(row, 0), 32, &beside.dout.view()(11 + row, 0));
    }
    for (index row = 37; row < 50; ++row)  // queries of the padding weigh on no gradient
      std::fill_n(&beside.dout.view()(11 + row, 0), 32, bf16(0.0f));
    for (problem<bf16>* p : {&alone, &beside}) {
      p->forward();
      p->backward();
    }
    for (index row = 0; row < 37; ++row) {
      CHECK(std::memcmp(&alone.out.view()(row, 0), &beside.out.view()(11 + row, 0), 64) == 0);
      CHECK(std::memcmp(&alone.dqkv.view()(row, 0), &beside.dqkv.view()(11 + row, 0), 64) == 0);  // dQ
    }
  });
}

TEST_CASE_TEMPLATE("a scale of one's own, large scores, and a negative scale", T, float, bf16, fp16) {
  on_each_level_and_amx([&](isa) {
    for (const float scale : {3.0f, -0.5f}) {
      INFO("scale ", scale);
      problem<T> p({{0, 40, 33, 1}}, 2, 16, 0.1f, 4);
      p.options.scale = scale;
      p.forward();
      p.backward();
      const verdict v = judge(p);
      CHECK(v.out <= 1);
      CHECK(v.lse <= 1);
      CHECK(v.gradients <= 1);
    }
  });
}

TEST_CASE("exponentials over their whole range, one a query") {
  const int n = 3000;
  on_each_level_and_amx([&](isa) {
    problem<float> p({{0, n, 2, 1}}, 1, 1, 0);
    p.options.scale = 1;
    for (index i = 0; i < n; ++i) p.qkv.view()(i, 0) = -104.0f * static_cast<float>(i) / n;
    for (const index key : {0, 1}) p.qkv.view()(key, 1) = p.qkv.view()(key, 2) = static_cast<float>(key);
    p.forward();
    for (index i = 0; i < n; ++i) {
      const double x = static_cast<double>(p.qkv.view()(i, 0)), e = std::exp(x);
      CHECK(within(static_cast<double>(p.out.view()(i, 0)), e / (1 + e),
                   0x1p-23 * (4 + 2 * std::abs(x)) * e + 0x1p-126));
    }
  });
}

TEST_CASE("a query without a finite score gives zeros and takes part in no gradient") {
  on_each_level_and_amx([&](isa) {
    problem<float> p({{0, 18, 18, 1}}, 1, 8, 0), other({{0, 18, 18, 1}}, 1, 8, 0);
    for (problem<float>* x : {&p, &other}) {
      for (index row = 0; row < 18; ++row)
        for (index col = 0; col < 8; ++col) x->qkv.view()(row, 8 + col) = col == 0 ? 1.0f : 0.0f;
      x->qkv.view()(5, 0) = -3e38f;  // finite, but not when scaled
      x->options.scale = 100;
    }
    for (index col = 0; col < 8; ++col) other.dout.view()(5, col) *= -3;
    for (problem<float>* x : {&p, &other}) {
      x->forward();
      x->backward();
    }
    CHECK(p.lse[5] == -INFINITY);
    for (index col = 0; col < 8; ++col) {
      CHECK(p.out.view()(5, col) == 0);
      CHECK(p.dqkv.view()(5, col) == 0);
    }
    CHECK(test::same_bits(p.dqkv.memory, other.dqkv.memory));
  });
}

TEST_CASE_TEMPLATE("NaN behind the keys does not leak, and no key at all gives zeros", T, float, bf16, fp16) {
  on_each_level_and_amx([&](isa) {
    for (const float p : {0.0f, 0.1f}) {
      problem<T> clean({{0, 20, 13, 1}, {20, 6, 0, 2}}, 1, 16, p);
      problem<T> dirty({{0, 20, 13, 1}, {20, 6, 0, 2}}, 1, 16, p);
      for (index row = 13; row < 26; ++row)
        for (index col = 16; col < 48; ++col)
          dirty.qkv.view()(row, col) = T(row % 2 == 0 ? std::numeric_limits<float>::quiet_NaN()
                                                      : std::numeric_limits<float>::infinity());
      for (problem<T>* x : {&clean, &dirty}) {
        x->forward();
        x->backward();
      }
      CHECK(test::same_bits(clean.out.memory, dirty.out.memory));
      CHECK(test::same_bits(clean.dqkv.memory, dirty.dqkv.memory));
      for (index row = 20; row < 26; ++row)
        for (index col = 0; col < 16; ++col) REQUIRE(static_cast<float>(clean.out.view()(row, col)) == 0);
      CHECK(clean.lse[20] == -INFINITY);
      for (index row = 13; row < 26; ++row)
        for (index col = 16; col < 48; ++col) REQUIRE(static_cast<float>(clean.dqkv.view()(row, col)) == 0);
    }
  });
}

TEST_CASE("what memory held before is not seen") {
  on_each_level_and_amx([&](isa) {
    problem<bf16> p({{0, 29, 27, 1}}, 1, 15, 0.1f), again({{0, 29, 27, 1}}, 1, 15, 0.1f);
    p.forward();
    p.backward();
    problem<bf16> nan({{0, 200, 200, 1}}, 1, 15, 0.1f);  // leaves NaN all over the workspace
    for (index row = 0; row < 200; ++row)
      for (index col = 0; col < 45; ++col) nan.qkv.view()(row, col) = bf16(NAN);
    nan.forward();
    again.forward();
    CHECK(test::same_bits(p.out.memory, again.out.memory));
    nan.backward();
    again.backward();
    CHECK(test::same_bits(p.dqkv.memory, again.dqkv.memory));
    CHECK(std::isnan(static_cast<float>(nan.out.view()(0, 0))));
    CHECK(std::isnan(static_cast<float>(nan.dqkv.view()(0, 0))));
  });
}

TEST_CASE("a sequence of 100,000 tokens") {
  const index n = quick() ? 1500 : 100000, width = 4;
  problem<float> p({{0, static_cast<std::int32_t>(n), static_cast<std::int32_t>(n), 0}}, 1, width, 0);
  p.forward(thread_executor(2));
  p.backward();
  const auto x = [&](index row, index col) { return static_cast<double>(p.qkv.view()(row, col)); };
  const auto dout = [&](index row, index c) { return static_cast<double>(p.dout.view()(row, c)); };
  const auto out = [&](index row, index c) { return static_cast<double>(p.out.view()(row, c)); };
  const auto score = [&](index i, index j) {
    double sum = 0;
    for (index c = 0; c < width; ++c) sum += x(i, c) * x(j, width + c);
    return sum / 2;
  };
  const auto dp_less_mean = [&](index i, index j) {
    double sum = 0;
    for (index c = 0; c < width; ++c) sum += dout(i, c) * (x(j, 2 * width + c) - out(i, c));
    return sum;
  };
  // Scores are below 2 and lse below 14. Sums run over blocks of at most 512 and then over at most 800 of
  // them.
  const double relative = 0x1p-23 * (1400 + 16 + 2 * 8);
  for (const index i : {index{0}, n / 2 + 1, n - 1}) {
    INFO("query ", i);
    double sum = 0, o[width] = {}, o_magnitude[width] = {}, dq[width] = {}, dq_magnitude[width] = {};
    for (index j = 0; j < n; ++j) sum += std::exp(score(i, j));
    for (index j = 0; j < n; ++j) {
      const double weight = std::exp(score(i, j)) / sum, ds = weight * dp_less_mean(i, j) / 2;
      for (index c = 0; c < width; ++c) {
        o[c] += weight * x(j, 2 * width + c);
        o_magnitude[c] += weight * std::abs(x(j, 2 * width + c));
        dq[c] += ds * x(j, width + c);
        dq_magnitude[c] += (std::abs(ds) + weight) * std::abs(x(j, width + c));
      }
    }
    CHECK(within(static_cast<double>(p.lse[i]), std::log(sum), relative));
    for (index c = 0; c < width; ++c) {
      CHECK(within(out(i, c), o[c], relative * o_magnitude[c]));
      CHECK(within(static_cast<double>(p.dqkv.view()(i, c)), dq[c], relative * dq_magnitude[c]));
    }
  }
  for (const index j : {index{1}, n / 3, n - 2}) {
    INFO("key ", j);
    double dk[width] = {}, dk_magnitude[width] = {}, dv[width] = {}, dv_magnitude[width] = {};
    for (index i = 0; i < n; ++i) {
      const double weight = std::exp(score(i, j) - static_cast<double>(p.lse[i]));
      const double ds = weight * dp_less_mean(i, j) / 2;
      for (index c = 0; c < width; ++c) {
        dk[c] += ds * x(i, c);
        dk_magnitude[c] += (std::abs(ds) + weight) * std::abs(x(i, c));
        dv[c] += weight * dout(i, c);
        dv_magnitude[c] += weight * std::abs(dout(i, c));
      }
    }
    for (index c = 0; c < width; ++c) {
      CHECK(within(static_cast<double>(p.dqkv.view()(j, width + c)), dk[c], relative * dk_magnitude[c]));
      CHECK(within(static_cast<double>(p.dqkv.view()(j, 2 * width + c)), dv[c], relative * dv_magnitude[c]));
    }
  }
}

TEST_CASE("a sequence that names no keys attends to all its rows") {
  problem<float> named({{0, 11, 11, 1}, {11, 6, 6, 2}}, 2, 8, 0.1f);
  problem<float> unnamed(
      {{.first_row = 0, .rows = 11, .sample = 1}, {.first_row = 11, .rows = 6, .sample = 2}}, 2, 8, 0.1f);
  for (problem<float>* p : {&named, &unnamed}) {
    p->forward();
    p->backward();
  }
  CHECK(test::same_bits(named.out.memory, unnamed.out.memory));
  CHECK(test::same_bits(named.dqkv.memory, unnamed.dqkv.memory));
  const verdict v = judge(unnamed);
  CHECK((v.out <= 1 && v.lse <= 1 && v.gradients <= 1));
}

TEST_CASE("rows of no sequence are not written") {
  problem<float> p({{0, 3, 3, 1}, {7, 2, 2, 2}}, 1, 8, 0);
  p.forward();
  for (index row = 3; row < 7; ++row) CHECK(std::isnan(p.out.view()(row, 0)));
  CHECK(judge(p).out <= 1);
}

TEST_CASE("errors") {
  problem<float> p({{0, 4, 4, 1}}, 2, 8, 0);
  const auto text = [&] { return error_of([&] { p.forward(); }); };
  p.sequences = {{0, 4, 5, 1}};
  CHECK(text().find("sequences[0] {first_row 0, rows 4, keys 5}") != std::string::npos);
  p.sequences = {{0, 4, -2, 1}};
  CHECK(text().find("sequences[0] {first_row 0, rows 4, keys -2}") != std::string::npos);
  p.sequences = {{0, 3, 3, 1}, {2, 2, 2, 1}};
  CHECK(text().find("sequences[1]") != std::string::npos);
  p.sequences = {{std::numeric_limits<index>::max(), 1, 1, 1}};
  CHECK(text().find("sequences[0]") != std::string::npos);
  p.sequences = {{0, 4, 4, 1}};
  p.options.heads = 3;
  CHECK(text() == "attention: out.cols 16 is not a multiple of heads 3");
  p.options.heads = 1;
  CHECK(text() == "attention: lse.size 8 != heads * rows 4");
  p.options.heads = 2;
  p.options.dropout.p = 1;
  CHECK(text().find("dropout probability") != std::string::npos);
  p.options.dropout.p = 0;
  CHECK(std::isnan(p.out.view()(0, 0)));
  CHECK_THROWS_WITH_AS(attention(p.qkv.const_view(), p.sequences, p.qkv.view().cols_from(0, 16),
                                 {p.lse.data(), at(p.lse.size())}, p.options),
                       "attention: out overlaps qkv", error);
}

TEST_CASE("a thread that gets no memory is an error after the tasks, not an exception in one") {
  problem<float> p({{0, 700, 700, 1}, {700, 700, 700, 2}}, 2, 8, 0);
  const allocator before =
      set_allocator({nullptr, [](void*, index) -> void* { return nullptr; }, [](void*, void*, index) {}});
  std::string text;
  std::thread([&] {  // its workspace is empty
    text = error_of([&] { p.forward(); });
  })
      .join();
  set_allocator(before);
  CHECK(text.find("attention: no memory") == 0);
}

}  // namespace test
