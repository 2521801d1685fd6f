// The AMX emulator's arithmetic: every instruction against plain loops, to the bit. On a CPU with AMX the
// instructions run on the hardware, and the emulator is compared with it. amx_signals_test.cpp has the rest.
#include "einkorn/testing/amx_emulator.hpp"

#include <doctest/doctest.h>

#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

// The wrappers for this file's own compiler flags, without any kernel.
#define EINKORN_HEADER_ONLY 1
#include "einkorn/kernels/amx.hpp"

namespace amx = einkorn::EINKORN_LEVEL::amx;
using einkorn::testing::amx_bytes;
using einkorn::testing::amx_emulator;
using einkorn::testing::amx_fault;
using einkorn::testing::amx_op;
using einkorn::testing::amx_tiles;

namespace {

using dwords = std::vector<std::uint32_t>;

struct product {
  amx_op op;
  void (*wrapper)();                            // tmm0 += tmm1 * tmm2
  amx_fault (*emulated)(amx_tiles&);            // the same, called directly
  int group;                                    // elements in a dword
  double (*element)(std::uint32_t, int, bool);  // value of element i of a dword of A (true) or B
};

double bf16_element(std::uint32_t dword, int i, bool) {
  const std::uint32_t bits = (dword >> (16 * i) & 0xffffu) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return static_cast<double>(value);
}
double fp16_element(std::uint32_t dword, int i, bool) {
  const unsigned half = dword >> (16 * i) & 0xffffu, exponent = half >> 10 & 31u, mantissa = half & 1023u;
  const double sign = half & 0x8000u ? -1.0 : 1.0;
  if (exponent == 31) return mantissa ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, static_cast<int>(exponent) - 25);
}
template <bool ASigned, bool BSigned>
double byte_element(std::uint32_t dword, int i, bool from_a) {
  const int byte = static_cast<int>(dword >> (8 * i) & 255u);
  return (from_a ? ASigned : BSigned) && byte > 127 ? byte - 256 : byte;
}

const product products[] = {
    {amx_op::tdpbf16ps, amx::tdpbf16ps<0, 1, 2>, [](amx_tiles& t) { return t.tdpbf16ps(0, 1, 2); }, 2,
     bf16_element},
    {amx_op::tdpfp16ps, amx::tdpfp16ps<0, 1, 2>, [](amx_tiles& t) { return t.tdpfp16ps(0, 1, 2); }, 2,
     fp16_element},
    {amx_op::tdpbssd, amx::tdpbssd<0, 1, 2>, [](amx_tiles& t) { return t.tdpb(amx_bytes::ss, 0, 1, 2); }, 4,
     byte_element<true, true>},
    {amx_op::tdpbsud, amx::tdpbsud<0, 1, 2>, [](amx_tiles& t) { return t.tdpb(amx_bytes::su, 0, 1, 2); }, 4,
     byte_element<true, false>},
    {amx_op::tdpbusd, amx::tdpbusd<0, 1, 2>, [](amx_tiles& t) { return t.tdpb(amx_bytes::us, 0, 1, 2); }, 4,
     byte_element<false, true>},
    {amx_op::tdpbuud, amx::tdpbuud<0, 1, 2>, [](amx_tiles& t) { return t.tdpb(amx_bytes::uu, 0, 1, 2); }, 4,
     byte_element<false, false>},
};

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
float flush(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }  // keeps NaN

struct shape {
  int rows, cols, depth;  // cols and depth in dwords
};

/// One element of C in the manual's order. `bound` receives the error bound against f64, 0 for integers.
std::uint32_t expected(const product& p, const dwords& a, const dwords& b, std::uint32_t c, shape s, int m,
                       int n, double& exact, double& bound) {
  const auto at = [&](const dwords& x, int row, int col) {
    return x[static_cast<std::size_t>(row * 16 + col)];
  };
  if (p.group == 4) {
    std::int64_t sum = static_cast<std::int32_t>(c);
    for (int k = 0; k < s.depth; ++k)
      for (int i = 0; i < 4; ++i)
        sum += static_cast<std::int64_t>(p.element(at(a, m, k), i, true) * p.element(at(b, k, n), i, false));
    exact = bound = 0;
    return static_cast<std::uint32_t>(static_cast<std::uint64_t>(sum));
  }
  float sums[2] = {0, 0};
  exact = static_cast<double>(flush(float_of(c)));
  double magnitude = std::fabs(exact);
  for (int k = 0; k < s.depth; ++k)
    for (int i = 0; i < 2; ++i) {
      // bf16's denormals are f32's, and flushed; fp16's are ordinary f32 numbers, and kept.
      const float x = flush(static_cast<float>(p.element(at(a, m, k), i, true)));
      const float y = flush(static_cast<float>(p.element(at(b, k, n), i, false)));
      sums[i] = flush(std::fma(x, y, sums[i]));
      exact += static_cast<double>(x) * static_cast<double>(y);
      magnitude += std::fabs(static_cast<double>(x) * static_cast<double>(y));
    }
  bound = (s.depth + 2) * 0x1p-23 * magnitude + (2 * s.depth + 2) * static_cast<double>(FLT_MIN);
  return bits_of(flush(flush(float_of(c)) + flush(sums[0] + sums[1])));
}

dwords random_dwords(std::mt19937& random, const product& p, bool destination, bool wild) {
  dwords x(256);
  std::normal_distribution<float> normal;
  for (std::uint32_t& word : x) {
    word = static_cast<std::uint32_t>(random());
    if (p.group == 4 || wild) continue;
    if (destination) {
      word = bits_of(normal(random));
    } else if (p.op == amx_op::tdpbf16ps) {
      word = bits_of(normal(random)) >> 16 | (bits_of(normal(random)) & 0xffff0000u);
    } else {
      word &= 0xbfffbfffu;  // fp16 below 2 in magnitude: no infinities
    }
  }
  return x;
}

amx::tile_config config_of(shape s) {
  amx::tile_config config;
  return config.set(0, s.rows, 4 * s.cols).set(1, s.rows, 4 * s.depth).set(2, s.depth, 4 * s.cols);
}

bool runs(amx_op op) {  // TDPFP16PS is missing on the first CPUs with AMX
  return !einkorn::testing::cpu_has_amx() || op != amx_op::tdpfp16ps ||
         einkorn::detail::state().probe.amx_fp16();
}

bool same(std::uint32_t got, std::uint32_t want, int group) {
  return got == want || (group == 2 && std::isnan(float_of(got)) && std::isnan(float_of(want)));
}

bool tiles_permitted() {
  return !einkorn::testing::cpu_has_amx() || einkorn::detail::request_tile_permission();
}

}  // namespace

TEST_CASE("every shape of every product has the bits of the manual, and nothing outside it") {
  REQUIRE(tiles_permitted());
  amx_emulator emulator;
  std::mt19937 random(1);
  for (const product& p : products) {
    if (!runs(p.op)) continue;
    CAPTURE(to_string(p.op));
    const dwords a = random_dwords(random, p, false, false), b = random_dwords(random, p, false, false),
                 c = random_dwords(random, p, true, false);
    std::uint64_t before = emulator.count(p.op);
    int checked = 0, wrong = 0, inexact = 0, spilt = 0;
    for (int rows = 1; rows <= 16; ++rows)
      for (int cols = 1; cols <= 16; ++cols)
        for (int depth = 1; depth <= 16; ++depth) {
          const shape s{rows, cols, depth};
          constexpr int out_stride = 19;  // padded
          dwords out(16 * out_stride, 0xabcdefu);
          {
            const amx::tile_scope scope(config_of(s));
            amx::load<0>(c.data(), 64);
            amx::load<1>(a.data(), 64);
            amx::loadt1<2>(b.data(), 64);
            p.wrapper();
            amx::store<0>(out.data(), 4 * out_stride);
            for (int r = 0; emulator.emulating() && r < 16; ++r)
              for (int n = r < rows ? cols : 0; n < 16; ++n)
                spilt += amx_emulator::tiles().data[0][r][n] != 0;
          }
          for (int m = 0; m < 16; ++m)
            for (int n = 0; n < out_stride; ++n) {
              const std::uint32_t got = out[static_cast<std::size_t>(m * out_stride + n)];
              if (m >= rows || n >= cols) {
                spilt += got != 0xabcdefu;
                continue;
              }
              double exact, bound;
              const std::uint32_t want =
                  expected(p, a, b, c[static_cast<std::size_t>(m * 16 + n)], s, m, n, exact, bound);
              ++checked;
              wrong += got != want;
              if (p.group == 2) inexact += !(std::fabs(static_cast<double>(float_of(got)) - exact) <= bound);
            }
        }
    CHECK(checked == 136 * 136 * 16);
    CHECK(wrong == 0);
    CHECK(inexact == 0);
    CHECK(spilt == 0);
    if (emulator.emulating()) CHECK(emulator.count(p.op) - before == 4096);
  }
  if (emulator.emulating()) {
    CHECK(emulator.count(amx_op::ldtilecfg) == 6 * 4096);
    CHECK(emulator.count(amx_op::sttilecfg) == 6 * 4096);
    CHECK(emulator.count(amx_op::tilerelease) == 6 * 4096);
    CHECK(emulator.count(amx_op::tileloadd) == 2 * 6 * 4096);
    CHECK(emulator.count(amx_op::tileloaddt1) == 6 * 4096);
    CHECK(emulator.count(amx_op::tilestored) == 6 * 4096);
    CHECK(emulator.count() == 12 * 6 * 4096 - 4 * 6 * 4096);
  }
}

TEST_CASE(
    "any bit pattern: denormals, infinities, NaN, wrap-around; whatever the caller's rounding mode is") {
  REQUIRE(tiles_permitted());
  amx_emulator emulator;
  std::mt19937 random(2);
  const shape s{16, 16, 3};
  const unsigned saved = _mm_getcsr();
  for (const product& p : products) {
    if (!runs(p.op)) continue;
    CAPTURE(to_string(p.op));
    for (int round = 0; round < 200; ++round) {
      const dwords a = random_dwords(random, p, false, true), b = random_dwords(random, p, false, true),
                   c = random_dwords(random, p, true, true);
      dwords out(256);
      _mm_setcsr(round % 2 ? saved | 0x4000 : saved);  // round up
      {
        const amx::tile_scope scope(config_of(s));
        amx::load<0>(c.data(), 64);
        amx::load<1>(a.data(), 64);
        amx::load<2>(b.data(), 64);
        p.wrapper();
        amx::store<0>(out.data(), 64);
      }
      const bool kept = (_mm_getcsr() & 0xffc0u) == ((round % 2 ? saved | 0x4000 : saved) & 0xffc0u);
      _mm_setcsr(saved);
      CHECK(kept);
      int wrong = 0;
      for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 16; ++n) {
          const auto i = static_cast<std::size_t>(m * 16 + n);
          double exact, bound;
          wrong += !same(out[i], expected(p, a, b, c[i], s, m, n, exact, bound), p.group);
        }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("denormals: bf16's and C's count as zero, fp16's count in full, results are flushed") {
  REQUIRE(tiles_permitted());
  amx_emulator emulator;
  const auto one = [&](const product& p, std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    const amx::tile_scope scope(config_of({1, 1, 1}));
    amx::load<0>(&c, 4);
    amx::load<1>(&a, 4);
    amx::load<2>(&b, 4);
    p.wrapper();
    amx::store<0>(&c, 4);
    return c;
  };
  CHECK(one(products[0], 0x0001, 0x7f00, 0) == 0);                            // 2^-133 * 2^127
  CHECK(one(products[0], 0x0080, 0x3f80, 0) == 0x00800000);                   // 2^-126 * 1
  CHECK(one(products[0], 0x0080, 0x3f00, 0) == 0);                            // 2^-127: flushed
  CHECK(one(products[0], 0, 0, 0x00400000) == 0);                             // C denormal
  CHECK(one(products[0], 0x8000, 0x3f80, 0x80000000) == 0);                   // -0 * 1 + 0 = +0; -0 + 0 = +0
  CHECK(one(products[0], 0x3f803f80, 0x3f80bf80, 0x40000000) == 0x40000000);  // 1 * -1 + 1 * 1 + 2
  if (runs(amx_op::tdpfp16ps)) {
    CHECK(one(products[1], 0x0001, 0x0001, 0) == bits_of(0x1p-48f));
    CHECK(one(products[1], 0x0001, 0x3c00, 0) == bits_of(0x1p-24f));
    CHECK(one(products[1], 0x03ff, 0x7bff, 0) == bits_of(0x3ffp-24f * 65504.0f));
    CHECK(one(products[1], 0, 0, 0x00400000) == 0);
  }
  CHECK(one(products[2], 0x80808080, 0x80808080, 0x7fffffff) == 0x7fffffffu + 65536u);  // wraps
  CHECK(one(products[5], 0xffffffff, 0xffffffff, 0xffffffff) == 4u * 255u * 255u - 1u);
}

TEST_CASE("the arithmetic without AVX2 gives the same bits as with it") {
  std::mt19937 random(3);
  for (const product& p : products)
    for (const bool wild : {false, true}) {
      CAPTURE(to_string(p.op));
      static amx_tiles with, without;
      const amx::tile_config config = config_of({13, 15, 16});
      for (amx_tiles* tiles : {&with, &without}) REQUIRE(!tiles->load_config(&config));
      without.scalar = true;
      for (int tile = 0; tile < 3; ++tile) {
        const dwords x = random_dwords(random, p, tile == 0, wild);
        for (amx_tiles* tiles : {&with, &without})
          REQUIRE(!tiles->load(tile, reinterpret_cast<std::uintptr_t>(x.data()), 64));
      }
      REQUIRE(!p.emulated(with));
      REQUIRE(!p.emulated(without));
      int wrong = 0;
      for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 16; ++n) wrong += !same(with.data[0][m][n], without.data[0][m][n], p.group);
      CHECK(wrong == 0);
    }
}

TEST_CASE("hardware tiles and emulated tiles agree to the bit") {
  if (!einkorn::testing::cpu_has_amx() || !tiles_permitted()) {
    const char* required = std::getenv("EINKORN_TEST_REQUIRE");
    if (required && std::string(required) == "amx")
      FAIL("EINKORN_TEST_REQUIRE=amx, and this machine has no AMX");
    MESSAGE("skipped: this machine has no AMX");
    return;
  }
  std::mt19937 random(4);
  for (const product& p : products) {
    if (!runs(p.op)) continue;
    CAPTURE(to_string(p.op));
    for (int round = 0; round < 2000; ++round) {
      const auto size = [&random] { return static_cast<int>(random() % 16 + 1); };
      const shape s{size(), size(), size()};
      const amx::tile_config config = config_of(s);
      static amx_tiles tiles;
      tiles.load_config(&config);
      dwords hardware(256), x[3];
      for (int tile = 0; tile < 3; ++tile) {
        x[tile] = random_dwords(random, p, tile == 0, round % 2 == 1);
        tiles.load(tile, reinterpret_cast<std::uintptr_t>(x[tile].data()), 64);
      }
      {
        const amx::tile_scope scope(config);
        amx::load<0>(x[0].data(), 64);
        amx::load<1>(x[1].data(), 64);
        amx::load<2>(x[2].data(), 64);
        p.wrapper();
        amx::store<0>(hardware.data(), 64);
      }
      REQUIRE(!p.emulated(tiles));
      int wrong = 0;
      for (int m = 0; m < s.rows; ++m)
        for (int n = 0; n < s.cols; ++n)
          wrong += !same(hardware[static_cast<std::size_t>(m * 16 + n)], tiles.data[0][m][n], p.group);
      CHECK(wrong == 0);
    }
  }
}
