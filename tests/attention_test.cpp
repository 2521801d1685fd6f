// Attention and its gradients on every level against reference/attention.hpp, with bounds that follow each
// rounding through the formulas; masks, lengths, NaN behind a mask, threads, errors.
#include "support.hpp"

#include <einkorn/reference/attention.hpp>

namespace test {

using namespace einkorn;

namespace {

std::size_t at(index i) { return static_cast<std::size_t>(i); }

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
  const double scale = 1 / std::sqrt(static_cast<double>(width)), f = 0x1p-23, eps = test::eps_of<T>;
  const double tiny = test::tiny_of<T>;
  const auto qkv = p.qkv.const_view();
  const auto dout = p.dout.const_view();
  std::vector<double> out(at(p.rows * hidden)), lse(at(heads * p.rows)), grad(at(p.rows * 3 * hidden));
  const matrix_view<double> out_view(out.data(), p.rows, hidden), grad_view(grad.data(), p.rows, 3 * hidden);
  reference::attention(qkv, p.sequences, out_view, lse, p.options);
  reference::attention_backward(qkv, dout, p.sequences, grad_view, p.options);

  for (const sequence& s : p.sequences)
    for (int head = 0; head < heads; ++head) {
      const index qc = head * width, kc = hidden + qc, vc = kc + hidden, first = s.first_row, keys = s.keys;
      std::vector<double> unused, dk(at(keys * width)), dv(at(keys * width));
      const auto probability = reference::attention_probabilities(qkv, s, head, heads, scale, unused);
      const auto value = [&](index row, index col) { return static_cast<double>(qkv(first + row, col)); };
      for (index i = 0; i < s.rows; ++i) {
        // Relative error of a probability: twice that of a score in absolute terms, exp, sum and division.
        double score_error = 0;
        for (index j = 0; j < keys; ++j) {
          double sum = 0;
          for (index c = 0; c < width; ++c) sum += std::abs(value(i, qc + c) * value(j, kc + c));
          score_error = std::max(score_error, sum * scale * f * static_cast<double>(width + 4));
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
            dq[at(c)] += scale * ds_error * std::abs(value(j, kc + c));
            dk[at(j * width + c)] += scale * ds_error * std::abs(value(i, qc + c));
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
      {packed({129, 128}), 1, 7, 0.5f},  // two blocks of queries
  };
  if (!test::quick()) shapes.push_back({{{0, 384, 384, 0}, {384, 384, 300, 1}}, 2, 64, 0.1f});
  test::on_each_level([&](isa) {
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
    }
  });
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

TEST_CASE("the same bits for any number of threads, and beside other sequences or alone") {
  test::on_each_level([&](isa) {
    problem<bf16> first({{0, 50, 37, 4}, {50, 50, 50, 8}}, 3, 16, 0.1f);
    first.forward();
    first.backward();
    test::with_thread_counts([&](const executor& exec) {
      problem<bf16> again({{0, 50, 37, 4}, {50, 50, 50, 8}}, 3, 16, 0.1f);
      again.forward(exec);
      again.backward(exec);
      CHECK(test::same_bits(first.out.memory, again.out.memory));
      CHECK(test::same_bits(first.dqkv.memory, again.dqkv.memory));
    });
  });
}

TEST_CASE("NaN behind the keys does not leak, and no key at all gives zeros") {
  test::on_each_level([&](isa) {
    problem<float> clean({{0, 20, 13, 1}, {20, 6, 0, 2}}, 1, 16, 0);
    problem<float> dirty({{0, 20, 13, 1}, {20, 6, 0, 2}}, 1, 16, 0);
    for (index row = 13; row < 26; ++row)
      for (index col = 16; col < 48; ++col) dirty.qkv.view()(row, col) = row % 2 == 0 ? NAN : INFINITY;
    clean.forward();
    dirty.forward();
    clean.backward();
    dirty.backward();
    CHECK(test::same_bits(clean.out.memory, dirty.out.memory));
    CHECK(test::same_bits(clean.dqkv.memory, dirty.dqkv.memory));
    for (index row = 20; row < 26; ++row)
      for (index col = 0; col < 16; ++col) REQUIRE(clean.out.view()(row, col) == 0);
    CHECK(clean.lse[20] == -INFINITY);
    for (index row = 13; row < 26; ++row)
      for (index col = 16; col < 48; ++col) REQUIRE(clean.dqkv.view()(row, col) == 0);
  });
}

TEST_CASE("rows of no sequence are not written") {
  problem<float> p({{0, 3, 3, 1}, {7, 2, 2, 2}}, 1, 8, 0);
  p.forward();
  for (index row = 3; row < 7; ++row) CHECK(std::isnan(p.out.view()(row, 0)));
  CHECK(judge(p).out <= 1);
}

TEST_CASE("errors") {
  problem<float> p({{0, 4, 4, 1}}, 2, 8, 0);
  const auto text = [&] {
    try {
      p.forward();
    } catch (const error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  p.sequences = {{0, 4, 5, 1}};
  CHECK(text().find("sequences[0] {first_row 0, rows 4, keys 5}") != std::string::npos);
  p.sequences = {{0, 3, 3, 1}, {2, 2, 2, 1}};
  CHECK(text().find("sequences[1]") != std::string::npos);
  p.sequences = {{0, 4, 4, 1}};
  p.options.heads = 3;
  CHECK(text() == "attention: out.cols % heads 1 != zero 0");
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

}  // namespace test
