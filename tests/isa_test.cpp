// The choice of a level is a pure function of a probe: made-up machines, and then the real one.
#include <doctest/doctest.h>
#include <cstdlib>
#include <einkorn/einkorn.hpp>

using namespace einkorn;

namespace {

/// A machine that supports everything up to `level`, with a build that compiled everything.
cpu_probe machine(isa level) {
  cpu_probe p;
  for (int i = 0; i < isa_count; ++i) p.compiled[i] = true;
  for (int i = 0; i <= static_cast<int>(level); ++i) p.usable[i] = true;
  for (const detail::cpu_feature& f : detail::needed_features)
    if (f.level <= level) p.*f.word |= 1u << f.bit;
  p.xcr0 = detail::needed_xcr0(level);
  return p;
}

int number(isa level) { return static_cast<int>(level); }

}  // namespace

TEST_CASE("each level is chosen on a machine that has just it") {
  for (int i = 0; i < isa_count; ++i) CHECK(choose(machine(static_cast<isa>(i))) == i);
}

TEST_CASE("each gate that fails sends the choice one level down and is named") {
  SUBCASE("not compiled") {
    cpu_probe p = machine(isa::amx);
    p.compiled[number(isa::amx)] = false;
    CHECK(choose(p) == number(isa::avx512_bf16));
    CHECK(gates_of(p, isa::amx).first_failure() == "it is not compiled in");
  }
  SUBCASE("CPUID") {
    for (const detail::cpu_feature& f : detail::needed_features) {
      CAPTURE(f.name);
      cpu_probe p = machine(isa::amx);
      p.*f.word &= ~(1u << f.bit);
      CHECK(choose(p) == number(f.level) - 1);
      CHECK(gates_of(p, f.level).first_failure() == std::string("CPUID lacks ") + f.name);
    }
  }
  SUBCASE("XCR0") {
    cpu_probe p = machine(isa::amx);
    p.xcr0 = 0xe7;
    CHECK(choose(p) == number(isa::avx512_bf16));
    CHECK(gates_of(p, isa::amx).first_failure().find("tile state") != std::string::npos);
    p.xcr0 = 0x7;
    CHECK(choose(p) == number(isa::avx2));
    p.xcr0 = 0;
    CHECK(choose(p) == number(isa::baseline));
  }
  SUBCASE("permission") {
    cpu_probe p = machine(isa::amx);
    p.tile_permission = gate::fail;
    CHECK(choose(p) == number(isa::avx512_bf16));
    CHECK(gates_of(p, isa::amx).first_failure().find("arch_prctl") != std::string::npos);
  }
  SUBCASE("self-test") {
    for (int i = 1; i < isa_count; ++i) {
      cpu_probe p = machine(static_cast<isa>(i));
      p.self_test[i] = gate::fail;
      CHECK(choose(p) == i - 1);
      CHECK(gates_of(p, static_cast<isa>(i)).first_failure().find("self-test") != std::string::npos);
    }
  }
  SUBCASE("cpu_features has the last word") {
    cpu_probe p = machine(isa::avx512_bf16);
    p.usable[number(isa::avx512_bf16)] = false;
    CHECK(choose(p) == number(isa::avx512_vnni));
  }
  SUBCASE("nothing at all") {
    cpu_probe p = machine(isa::baseline);
    p.compiled[0] = false;
    CHECK(choose(p) == -1);
  }
}

TEST_CASE("an emulated amx can be forced and is never chosen") {
  cpu_probe p = machine(isa::avx512_bf16);
  p.amx_emulated = true;
  CHECK(choose(p) == number(isa::avx512_bf16));
  CHECK(gates_of(p, isa::amx).usable());
  CHECK(gates_of(p, isa::amx).cpuid == gate::emulated);
  cpu_probe small = machine(isa::avx2);
  small.amx_emulated = true;
  CHECK_FALSE(gates_of(small, isa::amx).usable());
}

TEST_CASE("remarks on CPUs that run less than their name suggests") {
  cpu_probe skylake = machine(isa::avx2);
  skylake.leaf7_ebx |= 1u << 16;
  CHECK(skylake.remark().find("Skylake") != std::string::npos);
  cpu_probe alder = machine(isa::avx2);
  alder.leaf71_eax |= 1u << 4;
  CHECK(alder.remark().find("AVX-VNNI") != std::string::npos);
  CHECK(machine(isa::avx512_vnni).remark().empty());
}

TEST_CASE("names") {
  for (int i = 0; i < isa_count; ++i) CHECK(isa_from_name(name(static_cast<isa>(i))) == static_cast<isa>(i));
  CHECK_THROWS_WITH_AS(isa_from_name("sse9"),
                       "isa_from_name: unknown ISA level 'sse9'; known are baseline, avx2, avx512_vnni, "
                       "avx512_bf16, amx",
                       error);
}

TEST_CASE("the forced level is the one that runs") {
  int forced = 0;
  for (int i = 0; i < isa_count; ++i) {
    const isa level = static_cast<isa>(i);
    if (isa_available(level)) {
      force_isa(level);
      CHECK(active_isa() == level);
      CHECK(detail::kernels().level == level);
      CHECK(detail::kernels().self_test());
      ++forced;
    } else {
      const isa before = active_isa();
      CHECK_THROWS_AS(force_isa(level), error);
      CHECK(active_isa() == before);
    }
  }
  CHECK(forced >= 1);
  reset_isa();
  const char* wanted = std::getenv("EINKORN_ISA");
  if (wanted != nullptr && *wanted != '\0') CHECK(active_isa() == isa_from_name(wanted));
  const char* expected = std::getenv("EINKORN_TEST_EXPECT_ISA");  // set by the runs under qemu
  if (expected != nullptr) CHECK(name(active_isa()) == std::string(expected));
}

TEST_CASE("explain names every level and the one that runs") {
  const std::string text = explain();
  for (int i = 0; i < isa_count; ++i) CHECK(text.find(name(static_cast<isa>(i))) != std::string::npos);
  CHECK(text.find("<- runs") != std::string::npos);
}
