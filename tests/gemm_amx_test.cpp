// GEMM at the amx level: through the emulator on machines without tiles, on the hardware elsewhere. Every
// kernel, every tile edge by one, against plain loops; and how many tile instructions a product may take.
#include <vector>

#include "einkorn/reference/gemm.hpp"
#include "einkorn/testing/amx_emulator.hpp"
#include "support.hpp"

using einkorn::bf16;
using einkorn::fp16;
using einkorn::matrix_view;
using einkorn::testing::amx_emulator;
using einkorn::testing::amx_op;

namespace test {
namespace {

/// The amx level for a scope, if the rest of it (AVX512-BF16) is there.
struct amx_level {
  amx_emulator emulator;
  bool available = einkorn::isa_available(einkorn::isa::amx);
  amx_level() {
    if (available) einkorn::force_isa(einkorn::isa::amx);
    const char* required = std::getenv("EINKORN_TEST_REQUIRE");
    if (!available && required != nullptr && std::string(required).find("amx") != std::string::npos)
      FAIL("EINKORN_TEST_REQUIRE: the amx level cannot run here, not even emulated");
    if (!available) MESSAGE("skipped: the amx level needs AVX512-BF16 beside the emulated tiles");
  }
  ~amx_level() { einkorn::reset_isa(); }
  /// CPUs without AMX-FP16 widen fp16; the emulator has it.
  bool has_fp16() const { return emulator.emulating() || einkorn::detail::state().probe.amx_fp16(); }
};

template <class A, class B>
constexpr amx_op product_of() {
  if (std::is_same_v<A, bf16>) return amx_op::tdpbf16ps;
  if (std::is_same_v<A, fp16>) return amx_op::tdpfp16ps;
  return std::is_same_v<A, std::uint8_t> ? amx_op::tdpbusd : amx_op::tdpbssd;
}

/// A matrix of random numbers, stored transposed where asked, with NaN or -1 between its rows.
template <class T>
struct operand {
  guarded_matrix<T> memory;
  bool transposed;
  operand(index rows, index cols, bool transposed_, random_numbers& random, index padding)
      : memory(transposed_ ? cols : rows, transposed_ ? rows : cols, padding), transposed(transposed_) {
    fill_random(memory.view(), random);
  }
  matrix_view<const T> view() const {
    const auto plain = memory.const_view();
    return transposed ? einkorn::transpose(plain) : plain;
  }
};

/// Elements of C that are wrong.
template <class A, class B, class C>
int wrong_elements(const matrix_view<A>& a, const matrix_view<B>& b, const guarded_matrix<C>& c) {
  int wrong = 0;
  if constexpr (std::is_same_v<C, std::int32_t>) {
    const auto truth = einkorn::reference::gemm_int(a, b, c.view());
    for (index row = 0; row < c.rows; ++row)
      for (index col = 0; col < c.cols; ++col)
        wrong += c.view()(row, col) != truth[static_cast<std::size_t>(row * c.cols + col)];
  } else {
    const auto truth = einkorn::reference::gemm(a, b, c.view());
    for (index row = 0; row < c.rows; ++row)
      for (index col = 0; col < c.cols; ++col) {
        const auto i = static_cast<std::size_t>(row * c.cols + col);
        const double bound = static_cast<double>(a.cols + 2) * 0x1p-23 * truth.magnitude[i] +
                             eps_of<C> * std::abs(truth.c[i]) + tiny_of<C>;
        wrong += !within(static_cast<double>(c.view()(row, col)), truth.c[i], bound);
      }
  }
  return wrong + !c.intact();
}

template <class A, class B, class C>
void check_shapes(const amx_level& level, bool tiles) {
  random_numbers random(7);
  constexpr amx_op product = product_of<A, B>();
  const std::uint64_t before = level.emulator.count(product);
  const index group = 4 / static_cast<index>(sizeof(A)), step = 16 * group;
  const std::vector<index> sizes =
      quick() ? std::vector<index>{1, 17, 33} : std::vector<index>{1, 2, 15, 16, 17, 31, 32, 33, 65};
  int number = 0;
  for (const index rows : sizes)
    for (const index cols : sizes)
      for (const index depth :
           {index{0}, index{1}, group, group + 1, step - 1, step, step + 1, 2 * step + group + 1}) {
        ++number;
        CAPTURE(rows);
        CAPTURE(cols);
        CAPTURE(depth);
        const operand<A> a(rows, depth, number % 4 == 1, random, number % 3);
        const operand<B> b(depth, cols, number % 4 >= 2, random, number % 5);
        guarded_matrix<C> c(rows, cols, number % 2);
        einkorn::gemm(a.view(), b.view(), c.view(), {}, einkorn::serial_executor());
        CHECK(wrong_elements(a.view(), b.view(), c) == 0);
      }
  if (level.emulator.emulating()) CHECK((level.emulator.count(product) > before) == tiles);
}

}  // namespace

TEST_CASE("bf16 on tiles, around every edge of a tile") {
  const amx_level level;
  if (level.available) check_shapes<bf16, bf16, float>(level, true);
}

TEST_CASE("fp16 on tiles where the CPU has them, around every edge of a tile") {
  const amx_level level;
  if (level.available) check_shapes<fp16, fp16, float>(level, level.has_fp16());
}

TEST_CASE("u8 by s8 on tiles, around every edge of a tile") {
  const amx_level level;
  if (level.available) check_shapes<std::uint8_t, std::int8_t, std::int32_t>(level, true);
}

TEST_CASE("s8 by s8 on tiles, around every edge of a tile") {
  const amx_level level;
  if (level.available) check_shapes<std::int8_t, std::int8_t, std::int32_t>(level, true);
}

TEST_CASE("a 64 x 64 x 128 product takes 64 tile products and at most as many tile loads of A and B") {
  const amx_level level;
  if (!level.available || !level.emulator.emulating()) return;
  random_numbers random(8);
  const operand<bf16> a(64, 128, false, random, 0), b(128, 64, false, random, 0);
  guarded_matrix<float> c(64, 64);
  const auto count = [&](amx_op op) { return level.emulator.count(op); };
  const std::uint64_t products = count(amx_op::tdpbf16ps), loads = count(amx_op::tileloadd),
                      stores = count(amx_op::tilestored);
  einkorn::gemm(a.view(), b.view(), c.view(), {}, einkorn::serial_executor());
  CHECK(count(amx_op::tdpbf16ps) - products == 4 * 4 * 4);
  CHECK(count(amx_op::tileloadd) - loads <= 4 * 4 * 4);
  CHECK(count(amx_op::tilestored) - stores == 4 * 4);
  CHECK(wrong_elements(a.view(), b.view(), c) == 0);
}

TEST_CASE("several depth blocks, and sums added to C, whether or not the tiles write C themselves") {
  const amx_level level;
  if (!level.available) return;
  random_numbers random(12);
  for (const index cols : {32, 33, 48}) {
    const operand<bf16> a(35, 2100, false, random, 2), b(2100, cols, false, random, 0);
    guarded_matrix<float> c(35, cols), first(35, cols);
    fill_random(first.view(), random, 30);
    std::copy(first.memory.begin(), first.memory.end(), c.memory.begin());
    einkorn::epilogue e;
    e.beta = 1;
    einkorn::gemm(a.view(), b.view(), c.view(), e, einkorn::serial_executor());
    const auto truth = einkorn::reference::gemm(a.view(), b.view(), first.view(), e);
    int wrong = 0;
    for (std::size_t i = 0; i < truth.c.size(); ++i) {
      const double bound = 2102 * 0x1p-23 * truth.magnitude[i] + 0x1p-22 * (std::abs(truth.c[i]) + 30);
      wrong += !within(static_cast<double>(c.memory[static_cast<index>(i)]), truth.c[i], bound);
    }
    CHECK(wrong == 0);

    const operand<std::uint8_t> u(35, 4100, false, random, 0);
    const operand<std::int8_t> s(35, 4100, false, random, 1), w(4100, cols, true, random, 0);
    guarded_matrix<std::int32_t> sums(35, cols), before(35, cols);
    const auto check_sums = [&](const auto& left) {
      fill_random(before.view(), random);
      std::copy(before.memory.begin(), before.memory.end(), sums.memory.begin());
      einkorn::gemm(left.view(), w.view(), sums.view(), e, einkorn::serial_executor());
      const auto exact = einkorn::reference::gemm_int(left.view(), w.view(), before.view(), true);
      CHECK(std::equal(exact.begin(), exact.end(), sums.memory.begin()));
    };
    check_sums(u);
    check_sums(s);
  }
}

TEST_CASE("operands of two types, and of f32, are right at the amx level too") {
  const amx_level level;
  if (!level.available) return;
  random_numbers random(13);
  const operand<bf16> a(33, 65, false, random, 0);
  const operand<fp16> b(65, 35, true, random, 1);
  const operand<float> f(33, 65, true, random, 0);
  guarded_matrix<float> c(33, 35);
  einkorn::gemm(a.view(), b.view(), c.view());
  CHECK(wrong_elements(a.view(), b.view(), c) == 0);
  einkorn::gemm(f.view(), b.view(), c.view());
  CHECK(wrong_elements(f.view(), b.view(), c) == 0);
}

TEST_CASE("packed B, the epilogue and bf16 results go through the tiles too") {
  const amx_level level;
  if (!level.available) return;
  random_numbers random(9);
  for (const index rows : {5, 33}) {
    const operand<bf16> a(rows, 70, false, random, 0), w(70, 50, true, random, 0);
    guarded_buffer<float> bias(50);
    fill_random(bias, random);
    guarded_matrix<bf16> c(rows, 50), pre(rows, 50);
    guarded_matrix<float> residual(rows, 50);
    fill_random(residual.view(), random);
    einkorn::epilogue e;
    e.alpha = 0.5f;
    e.bias = bias.data();
    e.act = einkorn::activation::gelu;
    e.preactivation = pre.view();
    e.residual = residual.view();
    const std::uint64_t before = level.emulator.count(amx_op::tdpbf16ps);
    const einkorn::packed_matrix packed = einkorn::pack(w.view());
    CHECK(packed.level() == einkorn::isa::amx);
    einkorn::gemm(a.view(), packed, c.view(), e);
    if (level.emulator.emulating()) CHECK(level.emulator.count(amx_op::tdpbf16ps) > before);
    const auto truth = einkorn::reference::gemm(a.view(), w.view(), c.view(), e);
    int wrong = 0;
    for (index row = 0; row < rows; ++row)
      for (index col = 0; col < 50; ++col) {
        const auto i = static_cast<std::size_t>(row * 50 + col);
        const double bound = 72 * 0x1p-23 * truth.magnitude[i] + 2e-6;
        wrong += !within(static_cast<double>(c.view()(row, col)), truth.c[i],
                         1.2 * bound + 0x1p-8 * std::abs(truth.c[i]));
        wrong += !within(static_cast<double>(pre.view()(row, col)), truth.preactivation[i],
                         bound + 0x1p-8 * std::abs(truth.preactivation[i]));
      }
    CHECK(wrong == 0);
    CHECK(c.intact());
    CHECK(pre.intact());
  }
}

TEST_CASE("the same bits for any number of threads, each with tiles of its own") {
  const amx_level level;
  if (!level.available) return;
  random_numbers random(10);
  const operand<bf16> a(100, 130, false, random, 0), b(130, 90, false, random, 0);
  guarded_matrix<float> alone(100, 90);
  einkorn::gemm(a.view(), b.view(), alone.view(), {}, einkorn::serial_executor());
  CHECK(wrong_elements(a.view(), b.view(), alone) == 0);
  with_thread_counts([&](const einkorn::executor& exec) {
    guarded_matrix<float> c(100, 90);
    einkorn::gemm(a.view(), b.view(), c.view(), {}, exec);
    CHECK(same_bits(c.memory, alone.memory));
  });
}

TEST_CASE("a caller's tile configuration survives a product, and none is left behind") {
  const amx_level level;
  if (!level.available || !level.emulator.emulating()) return;
  random_numbers random(11);
  const operand<bf16> a(20, 40, false, random, 0), b(40, 20, false, random, 0);
  guarded_matrix<float> c(20, 20);
  auto& tiles = amx_emulator::tiles();
  tiles.release();
  einkorn::gemm(a.view(), b.view(), c.view(), {}, einkorn::serial_executor());
  CHECK(tiles.palette == 0);
  std::uint8_t config[64] = {1}, after[64];
  config[16] = 12, config[48] = 3;
  REQUIRE(!tiles.load_config(config));
  einkorn::gemm(a.view(), b.view(), c.view(), {}, einkorn::serial_executor());
  tiles.store_config(after);
  CHECK(std::memcmp(config, after, 64) == 0);
  tiles.release();
}

}  // namespace test
