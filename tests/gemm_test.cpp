// GEMM of f32, bf16 and fp16 against the reference: every level, type, orientation and edge.
#include "gemm_check.hpp"

namespace test {
using namespace einkorn;
namespace {

struct layout {
  bool a, b;
  const char* name;
};
constexpr layout layouts[] = {
    {false, false, "NN"}, {false, true, "NT"}, {true, false, "TN"}, {true, true, "TT"}};

template <class A, class B, class C>
void check_shapes(index padding, index slack) {
  random_numbers random(7);
  const std::vector<isa> levels = levels_to_test();
  for (const gemm_shape& s : gemm_shapes()) {
    for (const layout& l : layouts) {
      if (s.rows > 500 && l.a == l.b) continue;
      const operand<A> a(s.rows, s.depth, l.a, padding, random, slack);
      const operand<B> b(s.depth, s.cols, l.b, padding, random, slack);
      guarded_matrix<C> c(s.rows, s.cols, padding, slack);
      const auto expected = reference::gemm(a.view, b.view, c.const_view());
      for (const isa level : levels) {
        const forced_level forced(level);
        c = guarded_matrix<C>(s.rows, s.cols, padding, slack);
        gemm(a.view, b.view, c.view());
        CAPTURE(name(level));
        CAPTURE(l.name);
        CAPTURE(s.rows);
        CAPTURE(s.cols);
        CAPTURE(s.depth);
        CHECK(count_wrong(c, expected.c, expected.magnitude, s.depth, {}) == 0);
        if (s.rows > 17) continue;  // few rows read packed B in a way of their own
        c = guarded_matrix<C>(s.rows, s.cols, padding, slack);
        gemm(a.view, pack(b.view, dtype_of<A>), c.view());
        CHECK(count_wrong(c, expected.c, expected.magnitude, s.depth, {}) == 0);
      }
    }
  }
}

}  // namespace

TEST_CASE("every orientation and edge is within the bound on every level: f32") {
  check_shapes<float, float, float>(0, 0);
}
TEST_CASE("f32, padded, misaligned") { check_shapes<float, float, float>(3, 1); }
TEST_CASE("bf16 by its own instruction") {
  const bf16_widened widened(false);
  check_shapes<bf16, bf16, bf16>(0, 0);
}
TEST_CASE("bf16 to f32, padded, misaligned") {
  const bf16_widened widened(false);
  check_shapes<bf16, bf16, float>(5, 3);
}
TEST_CASE("bf16 widened") {
  const bf16_widened widened(true);
  check_shapes<bf16, bf16, bf16>(1, 0);
}
TEST_CASE("fp16") { check_shapes<fp16, fp16, fp16>(1, 0); }
TEST_CASE("f32 times bf16 to fp16") { check_shapes<float, bf16, fp16>(0, 1); }
TEST_CASE("fp16 times f32 to bf16") { check_shapes<fp16, float, bf16>(2, 0); }

TEST_CASE("small integers are exact in every type") {
  on_each_level([](isa) {
    random_numbers random(3);
    const operand<bf16> a(61, 517, false, 1, random, 0, true), b(517, 43, true, 0, random, 0, true);
    guarded_matrix<float> c(61, 43);
    gemm(a.view, b.view, c.view());
    const auto expected = reference::gemm(a.view, b.view, c.const_view());
    int wrong = 0;
    for (index i = 0; i < c.memory.size(); ++i)
      wrong += !(static_cast<double>(c.memory[i]) == expected.c[static_cast<std::size_t>(i)]);
    CHECK(wrong == 0);
  });
}

TEST_CASE("the same bits for 1, 2, 3 and 7 threads, plain and packed, and with a workspace of one's own") {
  on_each_level([](isa) {
    for (const gemm_shape s : {gemm_shape{523, 170, 300}, {601, 131, 1100}, {97, 997, 64}, {12, 1300, 70}}) {
      if (quick() && s.rows > 100) continue;
      random_numbers random(11);
      const operand<bf16> a(s.rows, s.depth, false, 0, random);
      const operand<bf16> b(s.depth, s.cols, true, 0, random);
      guarded_matrix<float> first(s.rows, s.cols);
      gemm(a.view, b.view, first.view(), {}, serial_executor());
      const packed_matrix packed = pack(b.view);
      guarded_matrix<float> first_packed(s.rows, s.cols);
      gemm(a.view, packed, first_packed.view(), {}, serial_executor());
      if (s.rows > 16) CHECK(same_bits(first.memory, first_packed.memory));  // fewer: dot products
      with_thread_counts([&](const executor& exec) {
        guarded_matrix<float> c(s.rows, s.cols), d(s.rows, s.cols);
        gemm(a.view, b.view, c.view(), {}, exec);
        CHECK(same_bits(first.memory, c.memory));
        gemm(a.view, packed, d.view(), {}, exec);
        CHECK(same_bits(first_packed.memory, d.memory));
        c.memory.fill_with_nan();
        workspace own(gemm_workspace(a.view, b.view, c.view(), {}, {}, exec));
        const index before = own.bytes();
        gemm(a.view, b.view, c.view(), {}, exec, &own);
        CHECK(own.bytes() == before);
        CHECK(same_bits(first.memory, c.memory));
      });
    }
  });
}

namespace {
/// What C holds before a product is added to it.
void fill(guarded_matrix<float>& c) {
  for (index i = 0; i < c.memory.size(); ++i) c.memory[i] = static_cast<float>(i % 7) - 3;
}
}  // namespace

TEST_CASE("deep products of few tasks: depth is split between threads, and the bits stay") {
  on_each_level([](isa) {
    for (const gemm_shape s : {gemm_shape{5, 13, 4500}, {20, 15, 9000}, {17, 64, 5000}, {3, 30, 9001}}) {
      if (quick() && s.depth > 8000) continue;
      for (const layout& l : layouts) {
        for (const float beta : {0.0f, 1.0f, 0.5f}) {
          random_numbers random(12);
          const operand<float> a(s.rows, s.depth, l.a, 0, random), b(s.depth, s.cols, l.b, 0, random);
          const epilogue e{.beta = beta};
          guarded_matrix<float> first(s.rows, s.cols), c(s.rows, s.cols);
          fill(first);
          const auto expected = reference::gemm(a.view, b.view, first.const_view(), e);
          const auto same_for_all = [&](const auto& right) {
            fill(first);
            gemm(a.view, right, first.view(), e, serial_executor());
            CHECK(count_wrong(first, expected.c, expected.magnitude, s.depth, {.extra = 1e-5}) == 0);
            with_thread_counts([&](const executor& exec) {
              fill(c);
              gemm(a.view, right, c.view(), e, exec);
              CHECK(same_bits(first.memory, c.memory));
            });
          };
          same_for_all(pack(b.view));
          if (!l.b) {  // else few rows are dot products
            fill(c);
            gemm(a.view, b.view, c.view(), e, serial_executor());
            CHECK(same_bits(first.memory, c.memory));
          }
          same_for_all(b.view);
        }
      }
    }
  });
}

TEST_CASE("a right operand that L3 cannot keep is packed one block of depth after another") {
  on_each_level([](isa) {
    // 17.7 MB of f32, and as many rows as make all threads share it on any machine.
    const gemm_shape s = quick() ? gemm_shape{90, 2104, 2100} : gemm_shape{390, 2104, 2100};
    for (const bool transposed : {true, false}) {
      if (quick() && !transposed) continue;
      random_numbers random(14);
      const operand<float> a(s.rows, s.depth, transposed, 0, random), b(s.depth, s.cols, false, 0, random);
      const packed_matrix packed = pack(b.view);
      for (const float beta : {1.0f, 0.0f}) {
        if (quick() && beta == 0) continue;
        const epilogue e{.beta = beta};
        guarded_matrix<float> expected(s.rows, s.cols), c(s.rows, s.cols);
        fill(expected);
        gemm(a.view, packed, expected.view(), e);
        for (const int threads : {1, 3}) {
          thread_executor exec(threads);
          fill(c);
          gemm(a.view, b.view, c.view(), e, exec);
          CHECK(same_bits(expected.memory, c.memory));
        }
      }
    }
  });
}

namespace {
template <class T>
void check_plans() {
  on_each_level([](isa) {
    for (const gemm_shape s : {gemm_shape{1, 1, 1},
                               {8, 8, 8},
                               {1, 40, 300},
                               {3, 200, 64},
                               {17, 33, 130},
                               {70, 45, 96},
                               {33, 70, 5},
                               {150, 131, 40},
                               {0, 3, 4},
                               {4, 4, 0}}) {
      for (const layout& l : layouts) {
        random_numbers random(5);
        const operand<T> a(s.rows, s.depth, l.a, 1, random), other(s.rows, s.depth, l.a, 1, random);
        const operand<T> b(s.depth, s.cols, l.b, 0, random);
        guarded_matrix<T> c(s.rows, s.cols, 1), d(s.rows, s.cols, 1);
        CAPTURE(l.name);
        CAPTURE(s.rows);
        CAPTURE(s.cols);
        const gemm_plan plan(a.view, b.view, d.view());
        gemm(a.view, b.view, c.view(), {}, serial_executor());
        plan();
        CHECK(same_bits(c.memory, d.memory));
        gemm(other.view, b.view, c.view(), {}, serial_executor());
        plan(other.view.data, b.view.data, d.memory.data());
        CHECK(same_bits(c.memory, d.memory));
        const packed_matrix packed = pack(b.view);
        const gemm_plan with_packed(a.view, packed, d.view(), {.act = activation::relu});
        gemm(a.view, packed, c.view(), {.act = activation::relu}, serial_executor());
        with_packed();
        CHECK(same_bits(c.memory, d.memory));
      }
    }
  });
}
}  // namespace

TEST_CASE("a plan gives the bits of a call, on its own operands and on others: f32") { check_plans<float>(); }
TEST_CASE("a plan gives the bits of a call: bf16") { check_plans<bf16>(); }

TEST_CASE("both layouts of a weight, packed in one pass, are those of two") {
  on_each_level([](isa) {
    for (const gemm_shape s :
         {gemm_shape{1, 1, 0}, {70, 45, 0}, {129, 300, 0}, {40, 2600, 0}, {2200, 33, 0}}) {
      random_numbers random(9);
      const operand<bf16> weight(s.rows, s.cols, false, 3, random);
      with_thread_counts([&](const executor& exec) {
        packed_matrix forward, backward;
        pack_pair_into(forward, backward, weight.view, dtype::bf16, exec);
        CAPTURE(s.rows);
        CAPTURE(s.cols);
        const auto same_products = [&](const matrix_view<const bf16>& b, const packed_matrix& pair) {
          const operand<bf16> x(20, b.rows, false, 0, random);
          guarded_matrix<float> c(20, b.cols), d(20, b.cols);
          const packed_matrix one = pack(b);
          gemm(x.view, one, c.view());
          gemm(x.view, pair, d.view());
          return one.bytes() == pair.bytes() && same_bits(c.memory, d.memory);
        };
        CHECK(same_products(transpose(weight.view), forward));
        CHECK(same_products(weight.view, backward));
      });
    }
  });
}

TEST_CASE("a plan is checked when it is made") {
  std::vector<float> memory(64);
  const matrix_view<const float> a(memory.data(), 4, 3), b(memory.data(), 2, 4);
  CHECK_THROWS_WITH_AS(gemm_plan(a, b, matrix_view<float>(memory.data() + 32, 4, 4)),
                       "gemm: b.rows 2 != a.cols 3", error);
}

TEST_CASE("batched products equal single ones, whatever their strides") {
  on_each_level([](isa) {
    random_numbers random(5);
    // Heads side by side: matrix i is columns [i * 9, i * 9 + 9) of one matrix.
    const index count = 4, width = 9, rows = 37;
    const operand<bf16> q(rows, count * width, false, 0, random), k(rows, count * width, false, 0, random);
    guarded_matrix<float> scores(count * rows, rows);
    with_thread_counts([&](const executor& exec) {
      scores.memory.fill_with_nan();
      gemm_batched(q.view.cols_from(0, width), transpose(k.view.cols_from(0, width)),
                   scores.view().rows_from(0, rows), {count, width, width, rows * rows}, {}, exec);
      for (index i = 0; i < count; ++i) {
        guarded_matrix<float> one(rows, rows);
        gemm(q.view.cols_from(i * width, width), transpose(k.view.cols_from(i * width, width)), one.view());
        int different = 0;
        for (index r = 0; r < rows; ++r)
          for (index c = 0; c < rows; ++c) different += !(one.view()(r, c) == scores.view()(i * rows + r, c));
        CHECK(different == 0);
      }
    });
    // More rows than a task takes, one B for all, backwards C.
    const operand<float> a(2 * 600, 33, false, 0, random), b(33, 50, false, 0, random);
    guarded_matrix<float> c(2 * 600, 50), d(2 * 600, 50);
    gemm_batched(a.view.rows_from(0, 600), b.view, c.view().rows_from(0, 600), {2, 600 * 33, 0, 600 * 50});
    gemm(a.view, b.view, d.view());
    CHECK(same_bits(c.memory, d.memory));
  });
}

TEST_CASE("NaN and infinity propagate, and only where they should") {
  on_each_level([](isa) {
    guarded_matrix<float> a(20, 30), b(30, 40), c(20, 40);
    for (float& x : a.memory) x = 1;
    for (float& x : b.memory) x = 1;
    a.view()(3, 7) = std::numeric_limits<float>::quiet_NaN();
    b.view()(4, 5) = std::numeric_limits<float>::infinity();
    gemm(a.const_view(), b.const_view(), c.view());
    for (index row = 0; row < 20; ++row)
      for (index col = 0; col < 40; ++col) {
        const float x = c.view()(row, col);
        if (row == 3)
          CHECK(std::isnan(x));
        else if (col == 5)
          CHECK(std::isinf(x));
        else
          CHECK(x == 30);
      }
  });
}

TEST_CASE("the checker finds a wrong kernel and a NaN kernel") {
  random_numbers random(1);
  const operand<float> a(20, 30, false, 0, random), b(30, 40, false, 0, random);
  guarded_matrix<float> c(20, 40);
  const auto expected = reference::gemm(a.view, b.view, c.const_view());
  const auto store = [&](auto change) {
    for (index i = 0; i < c.memory.size(); ++i)
      c.memory[i] = change(i, static_cast<float>(expected.c[static_cast<std::size_t>(i)]));
    return count_wrong(c, expected.c, expected.magnitude, 30, {});
  };
  CHECK(store([](index, float x) { return x; }) == 0);
  CHECK(store([](index i, float x) { return i == 799 ? x + 1e-4f : x; }) == 1);
  CHECK(store([](index i, float x) { return i == 0 ? NAN : x; }) == 1);
  CHECK(store([](index, float x) { return -x; }) > 790);
  // What a kernel that forgot the last k would compute.
  const auto shorter = reference::gemm(a.view.cols_from(0, 29), b.view.rows_from(0, 29), c.const_view());
  CHECK(store([&](index i, float) { return static_cast<float>(shorter.c[static_cast<std::size_t>(i)]); }) >
        700);
  // A buffer that was never written holds NaN.
  c.memory.fill_with_nan();
  CHECK(count_wrong(c, expected.c, expected.magnitude, 30, {}) == 800);
}

}  // namespace test
