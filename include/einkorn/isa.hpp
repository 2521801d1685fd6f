/// The ISA levels: which are compiled in, which this machine supports, which one runs, and why.
///
/// `EINKORN_ISA=avx2` in the environment, or force_isa(), chooses a level; one that the build or the CPU
/// lacks is an error that names the gate, never a silent fall-back. The enumeration `isa`:
/// detail/kernel_table.hpp; the gates and cache_sizes: detail/probe.hpp.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>

#include "detail/kernel_table.hpp"
#include "detail/probe.hpp"
#include "error.hpp"

EINKORN_BEGIN_NAMESPACE

/// Levels by name; throws einkorn::error for a word that is none of them.
inline isa isa_from_name(std::string_view word, const char* origin = "isa_from_name") {
  for (int i = 0; i < isa_count; ++i)
    if (word == name(static_cast<isa>(i))) return static_cast<isa>(i);
  detail::fail(std::string(origin) + ": unknown ISA level '" + std::string(word) +
               "'; known are baseline, avx2, avx512_vnni, avx512_bf16, amx");
}

namespace detail {

/// One object per linked copy of the library.
struct isa_state {
  std::atomic<const kernel_table*> active{nullptr};
  std::atomic<bool> amx_emulated{false};
  std::mutex mutex;
  cpu_probe probe = probe_cpu();  // with permission and self-tests filled in as they are asked
};

inline isa_state& state() {
  static isa_state instance;
  return instance;
}

/// Asks for the permission and runs the self-test of a level whose other gates pass. The kernel is asked
/// for tile data only here, when amx is about to be chosen: the permission also binds the size of
/// alternate signal stacks, which a library must not impose unasked.
inline bool admit(isa_state& s, isa level) {
  s.probe.amx_emulated = s.amx_emulated.load();
  if (!gates_of(s.probe, level).usable()) return false;
  if (level == isa::amx && !s.probe.amx_emulated && s.probe.tile_permission == gate::unasked) {
    s.probe.tile_permission = request_tile_permission() ? gate::pass : gate::fail;
    if (s.probe.tile_permission == gate::fail) return false;
  }
  gate& tested = s.probe.self_test[static_cast<int>(level)];
  if (tested == gate::unasked) tested = compiled_kernels(level)->self_test() ? gate::pass : gate::fail;
  return gates_of(s.probe, level).usable();
}

inline const kernel_table& force_locked(isa_state& s, isa level, const char* origin) {
  if (!admit(s, level))
    fail(std::string(origin) + ": ISA level '" + name(level) +
         "' is not available: " + gates_of(s.probe, level).first_failure());
  s.active.store(compiled_kernels(level), std::memory_order_release);
  return *s.active.load(std::memory_order_relaxed);
}

[[gnu::noinline, gnu::cold]] inline const kernel_table& choose_kernels() {
  isa_state& s = state();
  const std::lock_guard lock(s.mutex);
  if (const kernel_table* chosen = s.active.load(std::memory_order_acquire)) return *chosen;
  if (const char* wanted = std::getenv("EINKORN_ISA"); wanted != nullptr && *wanted != '\0')
    return force_locked(s, isa_from_name(wanted, "EINKORN_ISA"), "EINKORN_ISA");
  for (;;) {
    const int level = choose(s.probe);
    if (level < 0) {
      std::string text = "einkorn: this CPU can run none of the ISA levels compiled in:";
      for (int i = 0; i < isa_count; ++i)
        if (s.probe.compiled[i])
          text += std::string(" ") + name(static_cast<isa>(i)) + " (" +
                  gates_of(s.probe, static_cast<isa>(i)).first_failure() + ")";
      fail(text);
    }
    // A refused permission or a failed self-test is now in the probe, and the next choice is a lower level.
    if (admit(s, static_cast<isa>(level))) return force_locked(s, static_cast<isa>(level), "einkorn");
  }
}

inline const kernel_table& kernels() {
  const kernel_table* chosen = state().active.load(std::memory_order_acquire);
  return chosen != nullptr ? *chosen : choose_kernels();
}

/// For testing/amx_emulator.hpp: tiles are executed by a signal handler while this is set.
inline void set_amx_emulated(bool emulated) {
  isa_state& s = state();
  const std::lock_guard lock(s.mutex);
  s.amx_emulated = emulated;
  s.probe.self_test[static_cast<int>(isa::amx)] = gate::unasked;
  const kernel_table* chosen = s.active.load();
  if (!emulated && chosen != nullptr && chosen->level == isa::amx && s.probe.tile_permission != gate::pass)
    s.active.store(nullptr);
}

}  // namespace detail

/// The level that runs; the first call chooses it. Throws einkorn::error when EINKORN_ISA asks for what is
/// not there. A header_only program has the one level of its flags; on a CPU that lacks their instructions it
/// may die of SIGILL anywhere, before it gets here.
inline isa active_isa() { return detail::kernels().level; }

/// Whether force_isa(level) would succeed. Asks for the tile permission when level is amx.
inline bool isa_available(isa level) {
  detail::isa_state& s = detail::state();
  const std::lock_guard lock(s.mutex);
  return detail::admit(s, level);
}

/// From now on this level runs, in all threads. Throws einkorn::error naming the gate that failed, and
/// changes nothing then. Not to be called while another thread is inside the library.
inline void force_isa(isa level) {
  detail::isa_state& s = detail::state();
  const std::lock_guard lock(s.mutex);
  detail::force_locked(s, level, "force_isa");
}

/// Back to the automatic choice (or EINKORN_ISA's), made at the next call.
inline void reset_isa() {
  detail::isa_state& s = detail::state();
  const std::lock_guard lock(s.mutex);
  s.active.store(nullptr);
}

/// The CPU's name as CPUID gives it; empty where it gives none.
inline std::string cpu_name() { return detail::state().probe.brand; }

/// Data cache sizes in bytes per core (l3: shared), from CPUID; where it does not say, usual sizes.
inline cache_sizes caches() { return detail::state().probe.caches; }

/// A table of every level's gates, and the level that runs. One line each; ends with a newline.
inline std::string explain() {
  const isa chosen = active_isa();
  detail::isa_state& s = detail::state();
  const std::lock_guard lock(s.mutex);
  std::string text = "level         compiled  cpuid     xcr0      permission  self-test\n";
  const auto column = [&](const char* word, std::size_t width) {
    text += word;
    for (std::size_t n = std::string_view(word).size(); n < width; ++n) text += ' ';
  };
  for (int i = isa_count - 1; i >= 0; --i) {
    const isa level = static_cast<isa>(i);
    const isa_gates g = gates_of(s.probe, level);
    column(name(level), 14);
    column(name(g.compiled), 10);
    column(name(g.cpuid), 10);
    column(name(g.xcr0), 10);
    column(level == isa::amx ? name(g.permission) : "-", 12);
    column(name(g.self_test), 0);
    if (level == chosen) text += "  <- runs";
    if (!g.missing.empty()) text += "  (lacks " + g.missing + ")";
    text += '\n';
  }
  if (const std::string note = s.probe.remark(); !note.empty()) text += note + "\n";
  return text;
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
