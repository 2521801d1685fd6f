// embedding and embedding_backward against reference/embedding.hpp.
#include <einkorn/embedding.hpp>
#include <einkorn/reference/embedding.hpp>

#include <string>
#include <vector>

#include "support.hpp"

namespace embedding_tests {

using namespace einkorn;
using einkorn::index;  // not strings.h's
using test::guarded_matrix;

constexpr index words = 50, positions = 40, types = 2;

struct batch {
  std::vector<std::int32_t> word_ids, type_ids;
  std::vector<sequence> sequences;
  embedding_tokens tokens;
  index rows = 0;
  explicit batch(const std::vector<std::int32_t>& lengths, bool with_types = true) {
    test::random_numbers random(17);
    for (const std::int32_t length : lengths) {
      sequences.push_back({rows, length, length, static_cast<std::uint32_t>(sequences.size())});
      for (std::int32_t i = 0; i < length; ++i) {
        // Few distinct ids, so that rows of the table collide; 0 is the padding.
        word_ids.push_back(
            static_cast<std::int32_t>(random.below(3) == 0 ? random.below(words) : random.below(4)));
        type_ids.push_back(static_cast<std::int32_t>(random.below(types)));
      }
      rows += length;
    }
    tokens.word_ids = word_ids;
    if (with_types) tokens.type_ids = type_ids;
    tokens.sequences = sequences;
  }
};

struct tables {
  guarded_matrix<float> word, position, type;
  explicit tables(index cols, bool with_type = true)
      : word(words, cols, 3, 1), position(positions, cols), type(with_type ? types : 0, cols, 1) {
    test::random_numbers random(23);
    for (const auto* table : {&word, &position, &type}) test::fill_random(table->view(), random);
  }
  embedding_tables values() const { return {word.const_view(), position.const_view(), type.const_view()}; }
  embedding_gradients gradients() const { return {word.view(), position.view(), type.view()}; }
};

std::vector<index> widths() {
  std::vector<index> result = {0, 1, 65, 768};
  for (index cols = 2; cols <= 34; cols += test::quick() ? 11 : 1) result.push_back(cols);
  return result;
}

template <class T>
std::string check_forward(const matrix_view<T>& out, const std::vector<double>& exact) {
  for (index row = 0; row < out.rows; ++row)
    for (index col = 0; col < out.cols; ++col) {
      const double e = exact[static_cast<std::size_t>(row * out.cols + col)];
      if (!test::within(static_cast<double>(static_cast<float>(out(row, col))), e,
                        4 * 0x1p-24 + test::eps_of<T> * std::abs(e) + test::tiny_of<T>))
        return "element " + std::to_string(row) + ", " + std::to_string(col);
    }
  return {};
}

template <class T>
void test_forward() {
  for (const index cols : widths())
    for (const bool with_type : {true, false}) {
      INFO("cols ", cols, " with types ", with_type);
      const batch b({7, 0, 40, 1, 33}, with_type);
      const tables t(cols, with_type || cols % 2 == 0);
      const std::vector<double> exact = reference::embedding(b.tokens, t.values());
      guarded_matrix<T> out(b.rows, cols, 2, 1);
      embedding(b.tokens, t.values(), out.view(), serial_executor());
      CHECK(check_forward(out.view(), exact) == "");
      CHECK(out.intact());
      test::with_thread_counts([&](const executor& exec) {
        guarded_matrix<T> again(b.rows, cols, 2, 1);
        embedding(b.tokens, t.values(), again.view(), exec);
        CHECK(test::same_bits(again.memory, out.memory));
      });
    }
}

TEST_CASE("forward: every type, threads, strides") {
  test::on_each_level([](isa) {
    test_forward<float>();
    test_forward<bf16>();
    test_forward<fp16>();
  });
}

std::string check_gradient(const guarded_matrix<float>& got, const guarded_matrix<float>& before,
                           const reference::embedding_gradient& exact) {
  for (index row = 0; row < got.rows; ++row)
    for (index col = 0; col < got.cols; ++col) {
      const auto i = static_cast<std::size_t>(row * got.cols + col);
      const double start = static_cast<double>(before.view()(row, col));
      const auto terms = static_cast<double>(exact.terms[static_cast<std::size_t>(row)]);
      const double bound = terms * 0x1p-24 * (exact.magnitude[i] + std::abs(start));
      if (!test::within(static_cast<double>(got.view()(row, col)), start + exact.sum[i], bound))
        return "element " + std::to_string(row) + ", " + std::to_string(col);
    }
  return got.intact() ? "" : "written beyond the table";
}

template <class T>
void test_backward() {
  for (const index cols : widths())
    for (const std::int32_t padding_id : {-1, 0}) {
      INFO("cols ", cols, " padding ", padding_id);
      const batch b({7, 0, 40, 1, 33});
      guarded_matrix<T> dy(b.rows, cols, 1, 1);
      test::random_numbers random(4);
      test::fill_random(dy.view(), random);
      const tables before(cols), after(cols);
      const auto exact = reference::embedding_backward(dy.view(), b.tokens, after.gradients(), padding_id);
      embedding_backward(dy.view(), b.tokens, after.gradients(), padding_id, serial_executor());
      CHECK(check_gradient(after.word, before.word, exact.word) == "");
      CHECK(check_gradient(after.position, before.position, exact.position) == "");
      CHECK(check_gradient(after.type, before.type, exact.type) == "");
      test::with_thread_counts([&](const executor& exec) {
        const tables again(cols);
        embedding_backward(dy.view(), b.tokens, again.gradients(), padding_id, exec);
        CHECK(test::same_bits(again.word.memory, after.word.memory));
        CHECK(test::same_bits(again.position.memory, after.position.memory));
        CHECK(test::same_bits(again.type.memory, after.type.memory));
      });
    }
}

TEST_CASE("backward: colliding ids, the padding row skipped, any number of threads") {
  test::on_each_level([](isa) {
    test_backward<float>();
    test_backward<bf16>();
    test_backward<fp16>();
  });
}

TEST_CASE("the sum is linear, so one-hot gradients find each table's row") {
  // The derivative of sum(out * dy) by a table element is the sum of dy over the tokens that use its row:
  // changed by h, the sum changes by exactly h times that.
  const batch b({3, 5});
  const tables t(9), zero_sum(9);
  guarded_matrix<float> dy(b.rows, 9), out(b.rows, 9);
  test::random_numbers random(8);
  test::fill_random(dy.view(), random);
  const auto loss = [&] {
    double sum = 0;
    const std::vector<double> y = reference::embedding(b.tokens, t.values());
    for (index i = 0; i < b.rows * 9; ++i)
      sum += y[static_cast<std::size_t>(i)] * static_cast<double>(dy.memory[i]);
    return sum;
  };
  const auto exact = reference::embedding_backward(dy.view(), b.tokens, zero_sum.gradients(), -1);
  for (const index row : {0, 1, 2, 3}) {
    float& element = t.word.view()(row, 4);
    const float before = element;
    element = before + 0.5f;
    const double above = loss();
    const double step = static_cast<double>(element) - static_cast<double>(before);
    element = before;
    CHECK(std::abs((above - loss()) / step - exact.word.sum[static_cast<std::size_t>(row * 9 + 4)]) < 1e-12);
  }
}

TEST_CASE("the checkers fail a wrong kernel and a NaN kernel") {
  const batch b({5, 8});
  const tables t(20);
  guarded_matrix<float> out(b.rows, 20);
  const auto exact = reference::embedding(b.tokens, t.values());
  embedding(b.tokens, t.values(), out.view());
  REQUIRE(check_forward(out.view(), exact) == "");
  out.view()(12, 19) += 1e-5f;
  CHECK(check_forward(out.view(), exact) != "");
  out.view()(12, 19) = std::numeric_limits<float>::quiet_NaN();
  CHECK(check_forward(out.view(), exact) != "");
  const tables before(20), after(20);
  const auto gradient = reference::embedding_backward(out.view(), b.tokens, after.gradients(), 0);
  CHECK(check_gradient(after.word, before.word, gradient.word) != "");  // nothing was added
}

TEST_CASE("errors name token and value, and nothing is written") {
  const tables t(4);
  std::vector<float> y(8, 7.0f);
  const matrix_view<float> out(y.data(), 2, 4);
  std::vector<std::int32_t> ids = {1, 50}, type_ids = {0, 1};
  std::vector<sequence> sequences = {{0, 2, 2, 0}};
  embedding_tokens tokens{ids, type_ids, sequences};
  CHECK_THROWS_WITH_AS(embedding(tokens, t.values(), out),
                       "embedding: word_ids[1] 50 is not in [0, word.rows 50)", error);
  CHECK_THROWS_WITH_AS(embedding_backward(out, tokens, t.gradients()),
                       "embedding_backward: word_ids[1] 50 is not in [0, word.rows 50)", error);
  ids[1] = -1;
  CHECK_THROWS_WITH_AS(embedding(tokens, t.values(), out),
                       "embedding: word_ids[1] -1 is not in [0, word.rows 50)", error);
  ids[1] = 0;
  type_ids[0] = 2;
  CHECK_THROWS_WITH_AS(embedding(tokens, t.values(), out),
                       "embedding: type_ids[0] 2 is not in [0, type.rows 2)", error);
  type_ids[0] = 0;
  sequences[0].rows = 1;
  CHECK_THROWS_WITH_AS(embedding(tokens, t.values(), out), "embedding: rows of the sequences 1 != out.rows 2",
                       error);
  sequences[0].first_row = 1;
  CHECK_THROWS_WITH_AS(embedding(tokens, t.values(), out),
                       "embedding: sequences[0] has 1 rows from 1, expected to begin at row 0", error);
  const batch too_long({41});
  guarded_matrix<float> long_out(41, 4);
  CHECK_THROWS_WITH_AS(embedding(too_long.tokens, t.values(), long_out.view()),
                       "embedding: sequences[0].rows 41 > position.rows 40", error);
  for (const float v : y) CHECK(v == 7.0f);
}

}  // namespace embedding_tests
