/// Runs AMX instructions on a CPU without tiles, so that AMX kernels can be tested on any x86-64 Linux
/// machine.
///
///   einkorn::testing::amx_emulator emulator;     // from here on, tile instructions work on every thread
///   my_amx_kernel(...);
///   CHECK(emulator.count(einkorn::testing::amx_op::tdpbf16ps) == 64);
///
/// Such an instruction raises SIGILL; the handler decodes it, carries it out on tiles that each thread has of
/// its own, and goes on with the tile instructions that follow it directly. Measured on a virtual machine
/// with AVX-512: 10 us for a trap, 0.5 to 1.5 us for each further instruction. Bits are those of Intel's
/// manual. What the hardware refuses (tiles not configured, shapes that disagree, reserved bytes) is refused
/// with one line on stderr and the signal that the hardware would cause: SIGILL, or SIGSEGV for a bad
/// configuration.
#pragma once

#if !defined(__linux__) || !defined(__x86_64__)
#error "einkorn/testing/amx_emulator.hpp needs Linux on x86-64"
#endif

#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>

#include "../isa.hpp"
#include "amx_decode.hpp"
#include "amx_tiles.hpp"

EINKORN_BEGIN_NAMESPACE
namespace testing {

/// Whether the CPU has AMX-TILE, AMX-BF16 and AMX-INT8 and the operating system keeps their state. Says
/// nothing of Linux's permission (arch_prctl).
inline bool cpu_has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c & 1u << 27)) return false;  // OSXSAVE
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned needed = 1u << 22 | 1u << 24 | 1u << 25;  // BF16, TILE, INT8
  if ((d & needed) != needed) return false;
  return (einkorn::detail::read_xcr0() & 0x60000) == 0x60000;  // XTILECFG, XTILEDATA
}

namespace detail {

struct amx_emulator_state {
  std::mutex mutex;
  int scopes = 0;
  struct sigaction previous = {};
  std::atomic<std::uint64_t> counts[amx_op_count] = {};
};
inline constinit amx_emulator_state amx_state;
inline thread_local constinit amx_tiles amx_thread_tiles;

/// The general registers in the order of machine code.
inline std::uint64_t amx_register(const ucontext_t& context, int number) {
  static constexpr int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<std::uint64_t>(context.uc_mcontext.gregs[order[number]]);
}

inline std::uint64_t amx_address(const amx_instruction& in, const ucontext_t& context, std::uint64_t next) {
  std::uint64_t address = static_cast<std::uint64_t>(in.displacement);
  if (in.base >= 0) address += amx_register(context, in.base);
  if (in.rip_relative) address += next;
  if (in.override_segment != amx_instruction::segment::flat) {
    std::uint64_t start = 0;
    const int get =
        in.override_segment == amx_instruction::segment::fs ? 0x1003 : 0x1004;  // ARCH_GET_FS, _GS
    syscall(SYS_arch_prctl, get, &start);
    address += start;
  }
  return address;
}

inline amx_fault amx_execute(const amx_instruction& in, const ucontext_t& context, std::uint64_t next,
                             amx_tiles& tiles) {
  if (in.refused) return {amx_fault::kind::undefined, in.refused};
  const std::uint64_t address = amx_address(in, context, next);
  const std::uint64_t index = in.index >= 0 ? amx_register(context, in.index) << in.scale : 0;
  switch (in.op) {
    case amx_op::ldtilecfg:  // an index is part of the address here, a stride elsewhere
      return tiles.load_config(reinterpret_cast<const void*>(address + index));
    case amx_op::sttilecfg:
      return tiles.store_config(reinterpret_cast<void*>(address + index)), amx_fault{};
    case amx_op::tilerelease:
      return tiles.release(), amx_fault{};
    case amx_op::tilezero:
      return tiles.zero(in.reg);
    case amx_op::tileloadd:
    case amx_op::tileloaddt1:
      return tiles.load(in.reg, address, index);
    case amx_op::tilestored:
      return tiles.store(in.reg, address, index);
    case amx_op::tdpbf16ps:
      return tiles.tdpbf16ps(in.reg, in.rm, in.vvvv);
    case amx_op::tdpfp16ps:
      return tiles.tdpfp16ps(in.reg, in.rm, in.vvvv);
    case amx_op::tdpbssd:
      return tiles.tdpb(amx_bytes::ss, in.reg, in.rm, in.vvvv);
    case amx_op::tdpbsud:
      return tiles.tdpb(amx_bytes::su, in.reg, in.rm, in.vvvv);
    case amx_op::tdpbusd:
      return tiles.tdpb(amx_bytes::us, in.reg, in.rm, in.vvvv);
    case amx_op::tdpbuud:
      return tiles.tdpb(amx_bytes::uu, in.reg, in.rm, in.vvvv);
  }
  return {amx_fault::kind::undefined, "unknown instruction"};
}

/// One line on stderr, with nothing but write(2): this runs in a signal handler.
inline void amx_report(const amx_instruction& in, const amx_fault& fault) {
  char line[256];
  std::size_t size = 0;
  const auto text = [&](const char* words) {
    for (; *words && size < sizeof line; ++words) line[size++] = *words;
  };
  const auto tile = [&](const char* before, int number) {
    const char digits[] = {static_cast<char>('0' + number / 10), static_cast<char>('0' + number % 10), '\0'};
    text(before);
    text(number >= 10 ? digits : digits + 1);
  };
  text("einkorn amx_emulator: ");
  text(to_string(in.op));
  if (in.op >= amx_op::tilezero) tile(" tmm", in.reg);
  if (in.op >= amx_op::tdpbf16ps) {
    tile(", tmm", in.rm);
    tile(", tmm", in.vvvv);
  }
  text(fault.raised == amx_fault::kind::undefined ? " is undefined (#UD): " : " is refused (#GP): ");
  text(fault.reason);
  text("\n");
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, size);
}

/// #GP as Linux delivers it: a SIGSEGV from the kernel at the faulting instruction. It is queued while
/// blocked, so that it arrives when the handler has returned to that instruction.
inline void amx_raise_protection(const ucontext_t& context) {
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, SIGSEGV);
  pthread_sigmask(SIG_BLOCK, &only, nullptr);
  syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGSEGV);
  if (sigismember(&context.uc_sigmask, SIGSEGV) == 1) {  // a blocked fault kills
    signal(SIGSEGV, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  }
}

/// Hands a SIGILL that is not ours to whoever had it before.
inline void amx_forward(int number, siginfo_t* info, void* raw_context) {
  const struct sigaction previous = amx_state.previous;
  const bool from_cpu = info->si_code > 0;
  const bool wants_info = (previous.sa_flags & SA_SIGINFO) != 0;
  if (!wants_info && previous.sa_handler == SIG_IGN && !from_cpu) return;
  if (!wants_info && (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN)) {
    signal(SIGILL, SIG_DFL);       // Linux does not let a program ignore its own fault
    if (!from_cpu) raise(SIGILL);  // a fault happens again by itself, with its true registers
    return;
  }
  pthread_sigmask(SIG_BLOCK, &previous.sa_mask, nullptr);
  if (!(previous.sa_flags & SA_NODEFER)) {
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, number);
    pthread_sigmask(SIG_BLOCK, &only, nullptr);
  }
  wants_info ? previous.sa_sigaction(number, info, raw_context) : previous.sa_handler(number);
}

/// Carries out the instruction that was trapped and all tile instructions that follow it directly: a trap
/// costs more than most of them. qemu-user 7.2 calls handlers with a misaligned stack.
[[gnu::force_align_arg_pointer]] inline void amx_handler(int number, siginfo_t* info, void* raw_context) {
  auto& context = *static_cast<ucontext_t*>(raw_context);
  const int saved_errno = errno;
  bool executed = false;
  amx_instruction in;
  while (info->si_code > 0) {
    auto& rip = context.uc_mcontext.gregs[REG_RIP];
    if (!amx_decode(reinterpret_cast<const std::uint8_t*>(rip), in)) break;
    const std::uint64_t next = static_cast<std::uint64_t>(rip + in.length);
    if (const amx_fault fault = amx_execute(in, context, next, amx_thread_tiles)) {
      if (executed) break;  // it traps by itself, and is reported then
      amx_report(in, fault);
      if (fault.raised == amx_fault::kind::protection) {
        amx_raise_protection(context);
        executed = true;
      }
      break;
    }
    amx_state.counts[static_cast<std::size_t>(in.op)].fetch_add(1, std::memory_order_relaxed);
    rip += in.length;
    executed = true;
  }
  if (!executed) amx_forward(number, info, raw_context);
  errno = saved_errno;
}

}  // namespace detail

/// While at least one of these lives, AMX instructions work on every thread of the program.
///
/// Objects nest, and may live on different threads; the last one restores the SIGILL handler that the first
/// one found. Other SIGILLs reach that handler unchanged; with none, the program dies as it would have. A
/// handler that someone installs meanwhile stays in place. isa.hpp then reports `amx` as "emulated". On a CPU
/// that has AMX nothing is installed, the instructions run on the hardware and every count stays 0.
class amx_emulator {
 public:
  amx_emulator() : emulating_(!cpu_has_amx()) {
    auto& state = detail::amx_state;
    const std::lock_guard lock(state.mutex);
    for (std::size_t op = 0; op < amx_op_count; ++op) before_[op] = state.counts[op];
    if (emulating_ && state.scopes++ == 0) install();
  }
  amx_emulator(const amx_emulator&) = delete;
  amx_emulator& operator=(const amx_emulator&) = delete;
  ~amx_emulator() {
    auto& state = detail::amx_state;
    const std::lock_guard lock(state.mutex);
    if (emulating_ && --state.scopes == 0) uninstall();
  }

  /// False on a CPU with AMX.
  bool emulating() const { return emulating_; }

  /// Instructions carried out since this object was made, on all threads.
  std::uint64_t count(amx_op op) const {
    const auto i = static_cast<std::size_t>(op);
    return detail::amx_state.counts[i].load(std::memory_order_relaxed) - before_[i];
  }
  std::uint64_t count() const {
    std::uint64_t sum = 0;
    for (std::size_t op = 0; op < amx_op_count; ++op) sum += count(static_cast<amx_op>(op));
    return sum;
  }

  /// The calling thread's tiles, to look at what a kernel left behind.
  static amx_tiles& tiles() { return detail::amx_thread_tiles; }

 private:
  static void install() {
    auto& state = detail::amx_state;
    struct sigaction found = {};
    einkorn::detail::set_amx_emulated(true);
    sigaction(SIGILL, nullptr, &found);
    if (is_ours(found)) return;  // left behind by uninstall() under a handler that has gone since
    state.previous = found;
    struct sigaction ours = {};
    ours.sa_sigaction = detail::amx_handler;
    // SA_NODEFER: the previous handler may leave by longjmp and find SIGILL unblocked.
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | (found.sa_flags & SA_ONSTACK);
    sigemptyset(&ours.sa_mask);
    sigaction(SIGILL, &ours, nullptr);
  }

  static void uninstall() {
    struct sigaction found = {};
    sigaction(SIGILL, nullptr, &found);
    if (is_ours(found)) sigaction(SIGILL, &detail::amx_state.previous, nullptr);
    einkorn::detail::set_amx_emulated(false);
  }

  static bool is_ours(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) && action.sa_sigaction == detail::amx_handler;
  }

  bool emulating_;
  std::uint64_t before_[amx_op_count] = {};
};

}  // namespace testing
EINKORN_END_NAMESPACE
