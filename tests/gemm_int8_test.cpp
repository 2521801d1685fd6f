// u8 and s8 times s8: equal to the reference, bit for bit, on every level, wherever i32 wraps.
#include "gemm_check.hpp"

namespace test {
using namespace einkorn;
namespace {

template <class A>
int count_different(const guarded_matrix<std::int32_t>& c, const std::vector<std::int32_t>& expected) {
  int different = c.intact() ? 0 : 1000000;
  for (index row = 0; row < c.rows; ++row)
    for (index col = 0; col < c.cols; ++col)
      different += c.view()(row, col) != expected[static_cast<std::size_t>(row * c.cols + col)];
  return different;
}

template <class A>
void check_shapes(index padding, index slack) {
  random_numbers random(9);
  const std::vector<isa> levels = levels_to_test();
  for (const gemm_shape& s : gemm_shapes()) {
    for (int l = 0; l < 4; ++l) {
      if (s.rows > 500 && l != 1 && l != 2) continue;
      const operand<A> a(s.rows, s.depth, (l & 2) != 0, padding, random, slack);
      const operand<std::int8_t> b(s.depth, s.cols, (l & 1) != 0, padding, random, slack);
      guarded_matrix<std::int32_t> before(s.rows, s.cols, padding, slack);
      fill_random(before.view(), random);
      const auto product = reference::gemm_int(a.view, b.view, before.const_view());
      const auto added = reference::gemm_int(a.view, b.view, before.const_view(), true);
      for (const isa level : levels) {
        const forced_level forced(level);
        CAPTURE(name(level));
        CAPTURE(l);
        CAPTURE(s.rows);
        CAPTURE(s.cols);
        CAPTURE(s.depth);
        guarded_matrix<std::int32_t> c(s.rows, s.cols, padding, slack);
        gemm(a.view, b.view, c.view());
        CHECK(count_different<A>(c, product) == 0);
        for (index row = 0; row < s.rows; ++row)
          for (index col = 0; col < s.cols; ++col) c.view()(row, col) = before.view()(row, col);
        gemm(a.view, b.view, c.view(), {.beta = 1});
        CHECK(count_different<A>(c, added) == 0);
      }
    }
  }
}

}  // namespace

TEST_CASE("u8 times s8") { check_shapes<std::uint8_t>(0, 0); }
TEST_CASE("s8 times s8, padded, misaligned") { check_shapes<std::int8_t>(3, 1); }

TEST_CASE("the largest bytes do not saturate, and i32 wraps modulo 2^32") {
  on_each_level([](isa) {
    // 255 * 127 * 70000 = 2266950000 and -128 * -128 * 140000 = 2293760000: beyond 2^31.
    const index depth = quick() ? 70000 : 140000;
    guarded_matrix<std::uint8_t> u(2, depth);
    guarded_matrix<std::int8_t> s(2, depth), b(depth, 3);
    for (auto& x : u.memory) x = 255;
    for (auto& x : s.memory) x = -128;
    for (index k = 0; k < depth; ++k) {
      b.view()(k, 0) = 127;
      b.view()(k, 1) = -128;
      b.view()(k, 2) = static_cast<std::int8_t>(k % 2 == 0 ? 127 : -128);
    }
    guarded_matrix<std::int32_t> c(2, 3);
    gemm(u.const_view(), b.const_view(), c.view());
    CHECK(count_different<int>(c, reference::gemm_int(u.const_view(), b.const_view(), c.const_view())) == 0);
    gemm(s.const_view(), b.const_view(), c.view());
    CHECK(count_different<int>(c, reference::gemm_int(s.const_view(), b.const_view(), c.const_view())) == 0);
  });
}

TEST_CASE("packed, batched and threaded products are the plain ones; one packed B serves u8 and s8") {
  on_each_level([](isa) {
    random_numbers random(2);
    const index rows = quick() ? 60 : 530, cols = 75, depth = 131;
    const operand<std::int8_t> a(rows, depth, true, 0, random), b(depth, cols, false, 1, random);
    const operand<std::uint8_t> u(rows, depth, false, 0, random);
    const packed_matrix packed = pack(b.view);
    CHECK(packed.type() == dtype::s8);
    guarded_matrix<std::int32_t> c(rows, cols), d(rows, cols);
    with_thread_counts([&](const executor& exec) {
      gemm(a.view, b.view, c.view(), {}, exec);
      CHECK(count_different<int>(c, reference::gemm_int(a.view, b.view, c.const_view())) == 0);
      gemm(a.view, packed, d.view(), {}, exec);
      CHECK(same_bits(c.memory, d.memory));
      gemm(u.view, packed, d.view(), {}, exec);
      CHECK(count_different<int>(d, reference::gemm_int(u.view, b.view, c.const_view())) == 0);
      gemm_batched(u.view.rows_from(0, 10), b.view, c.view().rows_from(0, 10),
                   {3, 10 * u.view.stride, 0, 10 * cols}, {}, exec);
      for (index i = 0; i < 30 * cols; ++i) REQUIRE(c.memory[i] == d.memory[i]);
    });
  });
}

TEST_CASE("deep products of few tasks are exact for any number of threads") {
  on_each_level([](isa) {
    random_numbers random(3);
    for (const index rows : {2, 21}) {
      const index cols = 15, depth = 20001;
      const operand<std::int8_t> a(rows, depth, false, 0, random), b(depth, cols, false, 1, random);
      guarded_matrix<std::int32_t> c(rows, cols);
      with_thread_counts([&](const executor& exec) {
        gemm(a.view, b.view, c.view(), {}, exec);
        CHECK(count_different<int>(c, reference::gemm_int(a.view, b.view, c.const_view())) == 0);
      });
    }
  });
}

}  // namespace test
