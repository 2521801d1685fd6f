/// What the machine says of itself, as plain data, and the choice of a level as a pure function of it.
///
/// cpu_features decides what is usable; it reads CPUID and XCR0 together and cannot say which of them said
/// no, so the raw registers are kept beside it to name the gate.
#pragma once

#include <cpu_features/cpuinfo_x86.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "kernel_table.hpp"

EINKORN_BEGIN_NAMESPACE

struct cache_sizes {
  index l1 = 32 << 10, l2 = 1 << 20, l3 = 16 << 20;
};

enum class gate : std::uint8_t { pass, fail, unasked, emulated };

constexpr const char* name(gate state) noexcept {
  constexpr const char* names[] = {"yes", "no", "not asked", "emulated"};
  return names[static_cast<int>(state)];
}

/// The gates of one level. A level runs when none of them says no.
struct isa_gates {
  gate compiled = gate::fail, cpuid = gate::fail, xcr0 = gate::fail;
  gate permission = gate::pass, self_test = gate::unasked;
  std::string missing;  // the features that CPUID or XCR0 lacks

  bool usable() const noexcept {
    return compiled != gate::fail && cpuid != gate::fail && xcr0 != gate::fail && permission != gate::fail &&
           self_test != gate::fail;
  }
  std::string first_failure() const {
    if (compiled == gate::fail) return "it is not compiled in";
    if (cpuid == gate::fail) return "CPUID lacks " + missing;
    if (xcr0 == gate::fail)
      return "the operating system does not save its registers (XCR0 lacks " + missing + ")";
    if (permission == gate::fail) return "the operating system refuses tile data (arch_prctl)";
    if (self_test == gate::fail) return "its self-test computed a wrong result";
    return "no gate failed";
  }
};

/// Everything that the choice depends on. Tests make up machines by filling one.
struct cpu_probe {
  bool compiled[isa_count] = {};
  bool usable[isa_count] = {};  // cpu_features: CPUID and XCR0 together
  // Raw registers: CPUID 1.ECX, 7.0.{EBX,ECX,EDX}, 7.1.EAX, and XCR0 (0 without OSXSAVE).
  std::uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0, leaf71_eax = 0;
  std::uint64_t xcr0 = 0;
  gate tile_permission = gate::unasked;
  gate self_test[isa_count] = {gate::unasked, gate::unasked, gate::unasked, gate::unasked, gate::unasked};
  bool amx_emulated = false;
  cache_sizes caches;
  std::string brand;

  bool amx_fp16() const noexcept { return (leaf71_eax >> 21 & 1u) != 0; }
  std::string remark() const;
};

namespace detail {

struct cpu_feature {
  const char* name;
  std::uint32_t cpu_probe::*word;
  int bit;
  isa level;  // the first level that needs it
};

inline constexpr cpu_feature needed_features[] = {
    {"FMA", &cpu_probe::leaf1_ecx, 12, isa::avx2},
    {"F16C", &cpu_probe::leaf1_ecx, 29, isa::avx2},
    {"AVX2", &cpu_probe::leaf7_ebx, 5, isa::avx2},
    {"AVX512F", &cpu_probe::leaf7_ebx, 16, isa::avx512_vnni},
    {"AVX512DQ", &cpu_probe::leaf7_ebx, 17, isa::avx512_vnni},
    {"AVX512CD", &cpu_probe::leaf7_ebx, 28, isa::avx512_vnni},
    {"AVX512BW", &cpu_probe::leaf7_ebx, 30, isa::avx512_vnni},
    {"AVX512VL", &cpu_probe::leaf7_ebx, 31, isa::avx512_vnni},
    {"AVX512_VNNI", &cpu_probe::leaf7_ecx, 11, isa::avx512_vnni},
    {"AVX512_BF16", &cpu_probe::leaf71_eax, 5, isa::avx512_bf16},
    {"AMX_BF16", &cpu_probe::leaf7_edx, 22, isa::amx},
    {"AMX_TILE", &cpu_probe::leaf7_edx, 24, isa::amx},
    {"AMX_INT8", &cpu_probe::leaf7_edx, 25, isa::amx},
};

/// XCR0 bits: 1, 2 SSE and AVX state; 5-7 AVX-512 state; 17, 18 tile configuration and data.
constexpr std::uint64_t needed_xcr0(isa level) noexcept {
  if (level == isa::amx) return 0x600e6;
  if (level >= isa::avx512_vnni) return 0xe6;
  return level == isa::avx2 ? 0x6 : 0;
}

}  // namespace detail

inline isa_gates gates_of(const cpu_probe& probe, isa level) {
  const auto i = static_cast<int>(level);
  isa_gates g;
  const bool emulated = level == isa::amx && probe.amx_emulated;
  g.compiled = probe.compiled[i] ? gate::pass : gate::fail;
  g.cpuid = gate::pass;
  for (const detail::cpu_feature& f : detail::needed_features) {
    if (f.level > level || (emulated && f.level == isa::amx)) continue;
    if ((probe.*f.word >> f.bit & 1u) == 0) {
      g.cpuid = gate::fail;
      g.missing += (g.missing.empty() ? "" : ", ") + std::string(f.name);
    }
  }
  const std::uint64_t needed = detail::needed_xcr0(emulated ? isa::avx512_bf16 : level);
  g.xcr0 = (probe.xcr0 & needed) == needed ? gate::pass : gate::fail;
  if (g.cpuid == gate::pass && g.xcr0 == gate::fail)
    g.missing = (needed & ~probe.xcr0) >= 0x20000 ? "tile state" : "AVX or AVX-512 state";
  // cpu_features has the last word: where it says no, the raw bits cannot overrule it.
  if (!emulated && g.cpuid == gate::pass && g.xcr0 == gate::pass && !probe.usable[i]) {
    g.cpuid = gate::fail;
    g.missing = "a feature that cpu_features asks for";
  }
  if (level == isa::amx) g.permission = probe.tile_permission;
  if (emulated) {
    if (g.cpuid == gate::pass) g.cpuid = gate::emulated;
    g.permission = gate::emulated;
  }
  g.self_test = probe.self_test[i];
  return g;
}

/// The highest level whose gates all pass or were not asked yet, as an isa; -1 when there is none. An
/// emulated level is only ever forced.
inline int choose(const cpu_probe& probe) {
  for (int i = isa_count - 1; i >= 0; --i) {
    if (static_cast<isa>(i) == isa::amx && probe.amx_emulated) continue;
    if (gates_of(probe, static_cast<isa>(i)).usable()) return i;
  }
  return -1;
}

/// Why a capable CPU runs less than one might expect; empty when there is nothing to say.
inline std::string cpu_probe::remark() const {
  const bool avx512 = (leaf7_ebx >> 16 & 1u) != 0, vnni = (leaf7_ecx >> 11 & 1u) != 0;
  if (avx512 && !vnni) return "AVX-512 without VNNI (Skylake-SP) runs as avx2.";
  if (!avx512 && (leaf71_eax >> 4 & 1u) != 0) return "AVX-VNNI without AVX-512 runs as avx2.";
  return {};
}

namespace detail {

/// ARCH_REQ_XCOMP_PERM (0x1023) for XTILEDATA (18), then read back with ARCH_GET_XCOMP_PERM (0x1022).
inline bool request_tile_permission() noexcept {
  constexpr long request = 0x1023, get = 0x1022, tile_data = 18;
  if (syscall(SYS_arch_prctl, request, tile_data) != 0) return false;
  unsigned long granted = 0;
  return syscall(SYS_arch_prctl, get, &granted) == 0 && (granted >> tile_data & 1u) != 0;
}

inline std::uint64_t read_xcr0() noexcept {
  std::uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

inline cache_sizes probe_caches() noexcept {
  cache_sizes sizes;
  const auto system = [](int which, index fallback) {
    const long size = sysconf(which);
    return size > 0 ? static_cast<index>(size) : fallback;
  };
  sizes.l1 = system(_SC_LEVEL1_DCACHE_SIZE, sizes.l1);
  sizes.l2 = system(_SC_LEVEL2_CACHE_SIZE, sizes.l2);
  sizes.l3 = system(_SC_LEVEL3_CACHE_SIZE, sizes.l3);
  const cpu_features::CacheInfo info = cpu_features::GetX86CacheInfo();  // Intel only in 0.7
  for (int i = 0; i < info.size; ++i) {
    const cpu_features::CacheLevelInfo& c = info.levels[i];
    if (c.cache_type != cpu_features::CPU_FEATURE_CACHE_DATA &&
        c.cache_type != cpu_features::CPU_FEATURE_CACHE_UNIFIED)
      continue;
    if (c.cache_size <= 0) continue;
    if (c.level == 1) sizes.l1 = c.cache_size;
    if (c.level == 2) sizes.l2 = c.cache_size;
    if (c.level == 3) sizes.l3 = c.cache_size;
  }
  return sizes;
}

inline cpu_probe probe_cpu() {
  cpu_probe p;
  for (int i = 0; i < isa_count; ++i) p.compiled[i] = compiled_kernels(static_cast<isa>(i)) != nullptr;

  const cpu_features::X86Info info = cpu_features::GetX86Info();
  const cpu_features::X86Features& f = info.features;  // signed one-bit fields: true is -1
  p.brand = info.brand_string;
  p.usable[0] = true;
  p.usable[1] = f.avx2 && f.fma3 && f.f16c;
  p.usable[2] =
      p.usable[1] && f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl && f.avx512cd && f.avx512vnni;
  p.usable[3] = p.usable[2] && f.avx512_bf16;
  p.usable[4] = p.usable[3] && f.amx_tile && f.amx_bf16 && f.amx_int8;

  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) p.leaf1_ecx = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
    p.leaf7_ebx = ebx;
    p.leaf7_ecx = ecx;
    p.leaf7_edx = edx;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) p.leaf71_eax = eax;
  }
  if ((p.leaf1_ecx >> 27 & 1u) != 0) p.xcr0 = read_xcr0();  // OSXSAVE
  p.caches = probe_caches();
  return p;
}

}  // namespace detail

EINKORN_END_NAMESPACE
