// Epilogues of a GEMM against the reference; and every misuse is an error before C is touched.

#include "gemm_check.hpp"

namespace test {
using namespace einkorn;
namespace {

struct settings {
  float alpha = 1, beta = 0;
  bool bias = false, preactivation = false, residual = false, residual_is_c = false;
  activation act = activation::none;
};

template <class T, class C, class Other>
void check(const gemm_shape& s, const settings& set, const std::vector<isa>& levels) {
  random_numbers random(4);
  const operand<T> a(s.rows, s.depth, false, 0, random), b(s.depth, s.cols, true, 0, random);
  const operand<C> before(s.rows, s.cols, false, 2, random);
  const operand<Other> residual(s.rows, s.cols, false, 1, random);
  guarded_buffer<float> bias(s.cols);
  fill_random(bias, random);
  guarded_matrix<C> c(s.rows, s.cols, 2);
  guarded_matrix<Other> pre(s.rows, s.cols, 3);

  epilogue e{.alpha = set.alpha, .beta = set.beta, .act = set.act};
  if (set.bias) e.bias = bias.data();
  if (set.residual) e.residual = residual.view;
  if (set.residual_is_c) e.residual = before.view;
  const auto expected = reference::gemm(a.view, b.view, before.view, e);
  // Three more roundings of values of at most 10, and an activation of a few ulp.
  const gemm_bound bound{set.alpha, lipschitz(set.act), 8 * 0x1p-23 * 10};
  for (const isa level : levels) {
    const forced_level forced(level);
    for (const bool packed : {false, true}) {
      c.memory.fill_with_nan();
      pre.memory.fill_with_nan();
      if (set.beta != 0 || set.residual_is_c)
        for (index row = 0; row < s.rows; ++row)
          for (index col = 0; col < s.cols; ++col) c.view()(row, col) = before.view(row, col);
      if (set.residual_is_c) e.residual = c.view();
      if (set.preactivation) e.preactivation = pre.view();
      if (packed)
        gemm(a.view, pack(b.view), c.view(), e);
      else
        gemm(a.view, b.view, c.view(), e);
      CAPTURE(name(level));
      CAPTURE(s.rows);
      CAPTURE(s.cols);
      CAPTURE(s.depth);
      CAPTURE(static_cast<int>(set.act));
      CAPTURE(set.alpha);
      CAPTURE(set.beta);
      CHECK(count_wrong(c, expected.c, expected.magnitude, s.depth, bound) == 0);
      if (set.preactivation)
        CHECK(count_wrong(pre, expected.preactivation, expected.magnitude, s.depth, bound) == 0);
    }
  }
}

const gemm_shape shapes[] = {{7, 19, 5},     {29, 67, 33}, {1, 48, 40},
                             {15, 33, 1100}, {9, 70, 0},   {530, 40, 70}};

}  // namespace

TEST_CASE("alpha, beta, bias, activation, stored preactivation and residual, alone and together") {
  const std::vector<isa> levels = levels_to_test();
  const activation acts[] = {activation::none, activation::gelu, activation::gelu_tanh, activation::relu,
                             activation::tanh};
  for (const gemm_shape& s : shapes) {
    if (quick() && s.rows > 100) continue;
    check<float, float, float>(s, {.alpha = -0.5f}, levels);
    check<float, float, float>(s, {.beta = 1}, levels);
    check<bf16, bf16, float>(s, {.alpha = 2, .beta = -0.25f, .bias = true}, levels);
    check<float, float, bf16>(s, {.residual = true}, levels);
    check<bf16, float, bf16>(s, {.residual_is_c = true}, levels);
    check<fp16, fp16, fp16>(s, {.bias = true, .residual_is_c = true}, levels);
    for (const activation act : acts) {
      check<bf16, bf16, bf16>(s, {.bias = true, .preactivation = true, .act = act}, levels);
      check<float, float, fp16>(
          s, {.alpha = 0.7f, .beta = 0.3f, .bias = true, .preactivation = true, .residual = true, .act = act},
          levels);
    }
  }
}

TEST_CASE("beta == 0 does not read C, and alpha == 0 leaves the epilogue of zero") {
  on_each_level([](isa) {
    guarded_matrix<float> a(5, 6), b(6, 7), c(5, 7);
    for (float& x : a.memory) x = 1;
    for (float& x : b.memory) x = 2;
    gemm(a.const_view(), b.const_view(), c.view());  // c holds NaN before
    for (const float x : c.memory) CHECK(x == 12);
    gemm(a.const_view(), b.const_view(), c.view(), {.alpha = 0, .beta = 1});
    for (const float x : c.memory) CHECK(x == 12);
  });
}

TEST_CASE("a batch has its own residual and preactivation per matrix, and one bias") {
  on_each_level([](isa) {
    random_numbers random(6);
    const index n = 3, rows = 11, cols = 21, depth = 8;
    const operand<float> a(n * rows, depth, false, 0, random), b(n * depth, cols, false, 0, random);
    const operand<float> residual(n * rows, cols, false, 0, random);
    guarded_buffer<float> bias(cols);
    fill_random(bias, random);
    guarded_matrix<float> c(n * rows, cols), pre(n * rows, cols);
    epilogue e{.bias = bias.data(), .act = activation::relu};
    e.preactivation = pre.view().rows_from(0, rows);
    e.residual = residual.view.rows_from(0, rows);
    gemm_batched(a.view.rows_from(0, rows), b.view.rows_from(0, depth), c.view().rows_from(0, rows),
                 {n, rows * depth, depth * cols, rows * cols, rows * cols, rows * cols}, e);
    for (index i = 0; i < n; ++i) {
      epilogue one = e;
      one.preactivation = {};
      one.residual = residual.view.rows_from(i * rows, rows);
      guarded_matrix<float> d(rows, cols);
      gemm(a.view.rows_from(i * rows, rows), b.view.rows_from(i * depth, depth), d.view(), one);
      for (index r = 0; r < rows; ++r)
        for (index k = 0; k < cols; ++k) CHECK(c.view()(i * rows + r, k) == d.view()(r, k));
    }
    for (const float x : pre.memory) CHECK(!std::isnan(x));
  });
}

TEST_CASE("misuse is an error that names both values, and C stays as it was") {
  guarded_buffer<float> memory(4000);
  for (float& x : memory) x = 3;
  float* const m = memory.data();
  const matrix_view<float> a(m, 4, 5), b(m + 100, 5, 6), c(m + 200, 4, 6), big(m + 300, 4, 6, 20);
  const auto run = [&](const matrix_view<float>& x, const matrix_view<float>& y, const matrix_view<float>& z,
                       const epilogue& e = {}) { return error_of([&] { gemm(x, y, z, e); }); };
  CHECK(run(a, b, c) == "no error");
  for (float& x : memory) x = 3;
  CHECK(run(a, {m + 100, 6, 6}, c) == "gemm: b.rows 6 != a.cols 5");
  CHECK(run(a, b, {m + 200, 5, 6}) == "gemm: c.rows 5 != a.rows 4");
  CHECK(run(a, b, {m + 200, 4, 7}) == "gemm: c.cols 7 != b.cols 6");
  CHECK(run({nullptr, 4, 5}, b, c) == "gemm: a.data is null for 4 x 5");
  CHECK(run({m, 4, 5, 4}, b, c) == "gemm: a.stride 4 < 5, its row length");
  CHECK(run({m, -4, 5}, b, c).find("negative") != std::string::npos);
  CHECK(run(a, b, transpose(matrix_view<float>(m + 200, 6, 4))).find("c is transposed") != std::string::npos);
  CHECK(run(a, b, {m + 19, 4, 6}) == "gemm: c overlaps a");
  CHECK(run(a, b, {m + 110, 4, 6}) == "gemm: c overlaps b");
  // Columns beside each other in one matrix do not overlap; shifted by one they do.
  const matrix_view<float> left(m + 1000, 4, 5, 20);
  CHECK(run(left, b, {m + 1005, 4, 6, 20}) == "no error");
  CHECK(run(left, b, {m + 1004, 4, 6, 20}) == "gemm: c overlaps a");
  CHECK(run(left, b, {m + 1015, 4, 6, 20}) == "gemm: c overlaps a");
  for (const index offset : {20, 76, 130, 166})
    CHECK(error_of([&] {
            gemm_batched(a, b, matrix_view<float>(m + offset, 4, 6), {20, 190, 190, 190});
          }) == "no error");
  for (float& x : memory) x = 3;
  CHECK(run(a, b, c, {.preactivation = c}) == "gemm: preactivation overlaps a, b or c");
  CHECK(run(a, b, c, {.preactivation = matrix_view<float>(m + 500, 4, 5)}) ==
        "gemm: preactivation.cols 5 != c.cols 6");
  CHECK(run(a, b, c, {.residual = matrix_view<float>(m + 201, 4, 6)}) ==
        "gemm: residual overlaps c without being c");
  CHECK(run(a, b, c, {.residual = matrix_view<float>(m + 500, 3, 6)}) == "gemm: residual.rows 3 != c.rows 4");
  CHECK(error_of([&] { gemm_batched(a, b, c, {-1}); }) == "gemm: batch count -1 < 0");
  CHECK(error_of([&] {
          gemm_batched(a, b, big, {2, 0, 0, 3});
        }).find("stride_c is too small") != std::string::npos);
  CHECK(error_of([&] {
          gemm_batched(a, b, c, {2, 0, 0, 24, 1}, {.preactivation = matrix_view<float>(m + 500, 4, 6)});
        }).find("stride_preactivation is too small") != std::string::npos);
  // A, B and C of each product beside each other, at one stride, or C from the last one back.
  const auto side_by_side = [&](index offset, index stride) {
    return error_of([&] {
      gemm_batched(a, b, matrix_view<float>(m + offset, 4, 6), {20, 190, 190, stride});
    });
  };
  const index last = 19 * 190;
  CHECK(side_by_side(77, 190) == "gemm: c overlaps b");
  CHECK(side_by_side(129, 190) == "gemm: c overlaps b");
  CHECK(side_by_side(167, 190) == "gemm: c overlaps a");
  CHECK(side_by_side(last + 19, -190) == "gemm: c overlaps a");
  CHECK(side_by_side(last + 77, -190) == "gemm: c overlaps b");
  for (const float x : memory) CHECK(x == 3);

  guarded_buffer<std::int8_t> bytes(100);
  guarded_buffer<std::int32_t> sums(100);
  const matrix_view<const std::int8_t> s(bytes.data(), 4, 4);
  const matrix_view<std::int32_t> z(sums.data(), 4, 4);
  CHECK(error_of([&] { gemm(s, s, z, {.alpha = 2}); }) ==
        "gemm: an i32 result needs alpha 1 and beta 0 or 1");
  CHECK(error_of([&] { gemm(s, s, z, {.act = activation::relu}); }).find("takes no bias") !=
        std::string::npos);
}

TEST_CASE("a packed matrix refuses another level, another type and another shape") {
  guarded_matrix<float> a(4, 5), c(4, 6);
  guarded_matrix<bf16> narrow(4, 5), b(5, 6);
  CHECK(error_of([&] { gemm(a.const_view(), packed_matrix(), c.view()); }) ==
        "gemm: b is a packed_matrix that holds nothing");
  const packed_matrix packed = pack(b.const_view());
  CHECK(packed.rows() == 5);
  CHECK(packed.cols() == 6);
  CHECK(packed.level() == active_isa());
  CHECK(error_of([&] { gemm(a.const_view(), packed, c.view()); }) ==
        "gemm: b was packed for a of type bf16, but a is f32");
  CHECK(error_of([&] { gemm(a.const_view(), pack(b.const_view(), dtype::f32), c.view()); }) == "no error");
  CHECK(error_of([&] { pack(b.const_view(), dtype::s8); }) == "pack: no product of a s8 with b bf16");
  guarded_matrix<bf16> longer(4, 7);
  CHECK(error_of([&] { gemm(longer.const_view(), packed, c.view()); }) == "gemm: b.rows 5 != a.cols 7");
  for (const bool widened : {false, true}) {
    const bf16_widened scope(widened);
    const packed_matrix mine = pack(b.const_view());
    const bf16_widened other(!widened);
    CHECK(error_of([&] { gemm(narrow.const_view(), mine, c.view()); }) ==
          "gemm: b was packed for the other way of multiplying bf16");
  }
  const std::vector<isa> levels = levels_to_test();
  for (const isa made : levels) {
    packed_matrix mine;
    {
      const forced_level forced(made);
      mine = pack(b.const_view());
    }
    for (const isa used : levels) {
      const forced_level forced(used);
      const std::string text = error_of([&] { gemm(narrow.const_view(), mine, c.view()); });
      CHECK((text == "no error") == (made == used));
      if (made != used)
        CHECK(text.find(std::string("packed for ISA level '") + name(made)) != std::string::npos);
    }
  }
}

TEST_CASE("asking for the workspace computes nothing, and takes what the call takes") {
  on_each_level([](isa) {
    random_numbers random(6);
    const operand<float> a(16, 8, false, 0, random), b(8, 8, false, 0, random);
    guarded_matrix<float> c(16, 8), pre(16, 8);
    for (float& x : c.memory) x = 5;
    const auto first = c.view().rows_from(0, 8);
    const batch_layout batch{
        .count = 2, .stride_a = 64, .stride_c = 64, .stride_preactivation = 64, .stride_residual = 64};
    const epilogue e{.beta = 1, .preactivation = pre.view().rows_from(0, 8), .residual = first};
    gemm_workspace(a.view.rows_from(0, 8), b.view, first, batch, e);
    gemm_workspace(a.view, pack(b.view), c.view(), {.beta = 1});
    for (const float x : c.memory) CHECK(x == 5);
    CHECK(error_of([&] { gemm_workspace(a.view, b.view, first); }) == "gemm: c.rows 8 != a.rows 16");
  });
}

TEST_CASE("a packed matrix that lost its memory says so") {
  guarded_matrix<float> large(64, 64), small(4, 4), x(2, 64), y(2, 64);
  packed_matrix from = pack(large.const_view()), to = pack(small.const_view());
  to = std::move(from);
  CHECK(error_of([&] { gemm(x.const_view(), from, y.view()); }) ==
        "gemm: b is a packed_matrix that holds nothing");
  CHECK(error_of([&] { gemm(x.const_view(), to, y.view()); }) == "no error");
  // Packing again fails for want of memory: the old shape is not claimed for the new memory.
  packed_matrix forward = pack(transpose(small.const_view())), backward = pack(small.const_view());
  static int allowed;
  allowed = 1;
  const allocator before =
      set_allocator({nullptr,
                     [](void*, index bytes) -> void* {
                       return allowed-- > 0
                                  ? std::aligned_alloc(64, static_cast<std::size_t>((bytes + 63) / 64 * 64))
                                  : nullptr;
                     },
                     [](void*, void* memory, index) { std::free(memory); }});
  CHECK(error_of([&] { pack_pair_into(forward, backward, large.view(), dtype::f32); }).find("no memory") !=
        std::string::npos);
  guarded_matrix<float> u(2, 4), v(2, 4);
  CHECK(error_of([&] { gemm(u.const_view(), forward, v.view()); }) != "no error");
  forward = packed_matrix();  // its memory goes back where it came from
  set_allocator(before);
}

// What is written must not be const, and packed B knows which results its types give.
template <class A, class C>
concept multiplies_packed = requires(matrix_view<const A> a, const packed_matrix& b, matrix_view<C> c) {
  gemm(a, b, c);
};
static_assert(multiplies_packed<float, bf16> && multiplies_packed<std::uint8_t, std::int32_t>);
static_assert(!multiplies_packed<float, const float> && !multiplies_packed<float, std::int32_t>);

TEST_CASE("memory comes from the hook, in one allocation per packed matrix, and none after the first call") {
  static int allocated, released;
  allocated = released = 0;
  const allocator counting{nullptr,
                           [](void*, index bytes) {
                             ++allocated;
                             return std::aligned_alloc(64, static_cast<std::size_t>((bytes + 63) / 64 * 64));
                           },
                           [](void*, void* memory, index) {
                             ++released;
                             std::free(memory);
                           }};
  const allocator before = set_allocator(counting);
  {
    guarded_matrix<bf16> a(240, 250), b(250, 360);  // small products take the stack
    guarded_matrix<float> c(240, 360);
    const packed_matrix packed = pack(b.const_view());
    CHECK(allocated == 1);
    workspace own;
    gemm(a.const_view(), b.const_view(), c.view(), {}, serial_executor(), &own);
    const int first = allocated;
    CHECK(first == 2);
    for (int i = 0; i < 3; ++i) gemm(a.const_view(), b.const_view(), c.view(), {}, serial_executor(), &own);
    CHECK(allocated == first);
    const buffer aligned(100);
    CHECK(reinterpret_cast<std::uintptr_t>(aligned.data()) % 64 == 0);
  }
  CHECK(released == allocated);
  set_allocator({nullptr, [](void*, index) -> void* { return nullptr; }, [](void*, void*, index) {}});
  CHECK(error_of([] { buffer none(100); }) == "einkorn: no memory for 100 bytes");
  set_allocator(before);
}

}  // namespace test
