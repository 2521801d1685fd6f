// The AMX emulator as a decoder and as a signal handler: encodings against the assembler's, what it refuses
// and how, other people's SIGILLs, threads, nesting, and what a kernel leaves of its caller's configuration.
#include <doctest/doctest.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "einkorn/testing/amx_emulator.hpp"

// The wrappers for this file's own compiler flags, without any kernel.
#define EINKORN_HEADER_ONLY 1
#include "einkorn/kernels/amx.hpp"

namespace amx = einkorn::EINKORN_LEVEL::amx;
using einkorn::testing::amx_decode;
using einkorn::testing::amx_emulator;
using einkorn::testing::amx_instruction;
using einkorn::testing::amx_op;
using einkorn::testing::cpu_has_amx;

namespace {

bool tiles_permitted() { return !cpu_has_amx() || einkorn::detail::request_tile_permission(); }

/// Runs body in a child with stderr captured. Returns the signal that ended it, or -1 - exit status.
template <typename Body>
int end_of(Body body, std::string& words) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    signal(SIGSEGV, SIG_DFL);  // address sanitizer has a handler of its own
    body();
    _exit(0);
  }
  close(ends[1]);
  char buffer[512];
  words.clear();
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    words.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : -1 - WEXITSTATUS(status);
}

inline void undefined_instruction() { asm volatile("ud2" ::: "memory"); }

/// The bytes that the assembler makes of a line.
#define ASSEMBLED(line)                                                           \
  [] {                                                                            \
    const std::uint8_t* first;                                                    \
    const std::uint8_t* last;                                                     \
    asm volatile("jmp 2f\n1: " line "\n2: leaq 1b(%%rip), %0\nleaq 2b(%%rip), %1" \
                 : "=r"(first), "=r"(last));                                      \
    return std::vector<std::uint8_t>(first, last);                                \
  }()

amx_instruction decoded(const std::vector<std::uint8_t>& code) {
  amx_instruction in;
  REQUIRE(amx_decode(code.data(), in));
  CHECK(in.length == static_cast<int>(code.size()));
  CHECK(in.refused == nullptr);
  return in;
}

void check_address(const std::vector<std::uint8_t>& code, amx_op op, int base, int index, int scale,
                   std::int64_t displacement) {
  const amx_instruction in = decoded(code);
  CAPTURE(to_string(op));
  CAPTURE(base);
  CAPTURE(index);
  CHECK(in.op == op);
  CHECK(in.base == base);
  CHECK(in.index == index);
  CHECK(in.scale == scale);
  CHECK(in.displacement == displacement);
}

}  // namespace

TEST_CASE("every opcode is known from its machine code") {
  const auto is = [](const std::vector<std::uint8_t>& code, amx_op op, int reg, int rm, int vvvv) {
    const amx_instruction in = decoded(code);
    CHECK(in.op == op);
    if (op >= amx_op::tilezero) CHECK(in.reg == reg);
    if (op >= amx_op::tdpbf16ps) {
      CHECK(in.rm == rm);
      CHECK(in.vvvv == vvvv);
    }
  };
  is(ASSEMBLED("ldtilecfg (%%rax)"), amx_op::ldtilecfg, 0, 0, 0);
  is(ASSEMBLED("sttilecfg (%%rax)"), amx_op::sttilecfg, 0, 0, 0);
  is(ASSEMBLED("tilerelease"), amx_op::tilerelease, 0, 0, 0);
  is(ASSEMBLED("tilezero %%tmm0"), amx_op::tilezero, 0, 0, 0);
  is(ASSEMBLED("tilezero %%tmm7"), amx_op::tilezero, 7, 0, 0);
  is(ASSEMBLED("tileloadd (%%rax,%%rcx,1), %%tmm5"), amx_op::tileloadd, 5, 0, 0);
  is(ASSEMBLED("tileloaddt1 (%%rax,%%rcx,1), %%tmm6"), amx_op::tileloaddt1, 6, 0, 0);
  is(ASSEMBLED("tilestored %%tmm3, (%%rax,%%rcx,1)"), amx_op::tilestored, 3, 0, 0);
  is(ASSEMBLED("tdpbf16ps %%tmm7, %%tmm0, %%tmm3"), amx_op::tdpbf16ps, 3, 0, 7);
  is(ASSEMBLED("tdpbssd %%tmm1, %%tmm2, %%tmm4"), amx_op::tdpbssd, 4, 2, 1);
  is(ASSEMBLED("tdpbsud %%tmm5, %%tmm6, %%tmm7"), amx_op::tdpbsud, 7, 6, 5);
  is(ASSEMBLED("tdpbusd %%tmm0, %%tmm7, %%tmm1"), amx_op::tdpbusd, 1, 7, 0);
  is(ASSEMBLED("tdpbuud %%tmm2, %%tmm1, %%tmm0"), amx_op::tdpbuud, 0, 1, 2);
  is({0xc4, 0xe2, 0x63, 0x5c, 0xca}, amx_op::tdpfp16ps, 1, 2, 3);  // by objdump: tmm1, tmm2, tmm3
}

TEST_CASE("every form of address is decoded as the assembler wrote it") {
#define ADDRESS(number, name)                                                                              \
  check_address(ASSEMBLED("tileloadd (%%" name ",%%rcx,2), %%tmm1"), amx_op::tileloadd, number, 1, 1, 0);  \
  check_address(ASSEMBLED("tilestored %%tmm1, -5(%%" name ",%%r12,8)"), amx_op::tilestored, number, 12, 3, \
                -5);                                                                                       \
  check_address(ASSEMBLED("tileloaddt1 0x12345(%%" name "), %%tmm1"), amx_op::tileloaddt1, number, -1, 0,  \
                0x12345);                                                                                  \
  check_address(ASSEMBLED("ldtilecfg (%%" name ")"), amx_op::ldtilecfg, number, -1, 0, 0);                 \
  check_address(ASSEMBLED("sttilecfg -0x200(%%" name ",%%r9,4)"), amx_op::sttilecfg, number, 9, 2, -0x200)
#define INDEX(number, name) \
  check_address(ASSEMBLED("tileloadd 7(%%rdi,%%" name ",1), %%tmm1"), amx_op::tileloadd, 7, number, 0, 7)
  ADDRESS(0, "rax");
  ADDRESS(1, "rcx");
  ADDRESS(2, "rdx");
  ADDRESS(3, "rbx");
  ADDRESS(4, "rsp");
  ADDRESS(5, "rbp");
  ADDRESS(6, "rsi");
  ADDRESS(7, "rdi");
  ADDRESS(8, "r8");
  ADDRESS(9, "r9");
  ADDRESS(10, "r10");
  ADDRESS(11, "r11");
  ADDRESS(12, "r12");
  ADDRESS(13, "r13");
  ADDRESS(14, "r14");
  ADDRESS(15, "r15");
  INDEX(0, "rax");
  INDEX(1, "rcx");
  INDEX(2, "rdx");
  INDEX(3, "rbx");
  INDEX(5, "rbp");
  INDEX(6, "rsi");
  INDEX(7, "rdi");
  INDEX(8, "r8");
  INDEX(9, "r9");
  INDEX(10, "r10");
  INDEX(11, "r11");
  INDEX(12, "r12");
  INDEX(13, "r13");
  INDEX(14, "r14");
  INDEX(15, "r15");
  check_address(ASSEMBLED("tileloadd 0x1000(,%%rdx,1), %%tmm1"), amx_op::tileloadd, -1, 2, 0, 0x1000);
  check_address(ASSEMBLED("ldtilecfg 0x1000"), amx_op::ldtilecfg, -1, -1, 0, 0x1000);
  CHECK_FALSE(decoded(ASSEMBLED("ldtilecfg 0x1000")).rip_relative);
  const amx_instruction relative = decoded(ASSEMBLED("ldtilecfg 0x1000(%%rip)"));
  CHECK(relative.rip_relative);
  CHECK(relative.displacement == 0x1000);
  CHECK(decoded(ASSEMBLED("ldtilecfg %%fs:0x10(%%rax)")).override_segment == amx_instruction::segment::fs);
  CHECK(decoded(ASSEMBLED("ldtilecfg %%gs:(%%rax)")).override_segment == amx_instruction::segment::gs);
}

TEST_CASE("other instructions are not taken for AMX's") {
  amx_instruction in;
  for (const std::vector<std::uint8_t>& code :
       {ASSEMBLED("ud2"), ASSEMBLED("vpdpbusd %%ymm1, %%ymm2, %%ymm3"),
        ASSEMBLED("vfmadd231ps %%ymm1, %%ymm2, %%ymm3"), ASSEMBLED("vzeroall"), ASSEMBLED("nop"),
        std::vector<std::uint8_t>{0xc4, 0xe2, 0x78, 0x49, 0xc1},
        std::vector<std::uint8_t>{0xc4, 0xe2, 0x7c, 0x49, 0xc0},           // VEX.L = 1
        std::vector<std::uint8_t>{0xc4, 0xe2, 0xf8, 0x49, 0xc0},           // VEX.W = 1
        std::vector<std::uint8_t>{0xc4, 0xe2, 0x60, 0x5c, 0xca},           // NP 5C
        std::vector<std::uint8_t>{0xc4, 0xe2, 0x63, 0x5c, 0x08},           // a product from memory
        std::vector<std::uint8_t>{0x66, 0xc4, 0xe2, 0x78, 0x49, 0xc0}}) {  // 66 before VEX
    CHECK_FALSE(amx_decode(code.data(), in));
  }
}

TEST_CASE("tiles go to and from memory through every kind of address") {
  REQUIRE(tiles_permitted());
  amx_emulator emulator;
  static amx::tile_config config = amx::tile_config{}.set(0, 4, 8).set(6, 4, 8);
  static thread_local amx::tile_config local;
  local = config;
  std::uint32_t rows[40], out[2];
  for (std::uint32_t i = 0; i < 40; ++i) rows[i] = 100 + i;

  asm volatile("ldtilecfg %0" : : "m"(local) : "memory");  // %fs where the compiler likes it
  amx::tile_config read_back;
  amx::store_config(read_back);
  CHECK(std::memcmp(&read_back, &config, 64) == 0);
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");  // relative to RIP
  asm volatile("ldtilecfg 3(%0,%1,4)"
               :
               : "r"(reinterpret_cast<std::uintptr_t>(&config) - 43), "r"(10l)
               : "memory");

  // Row 3 of what was loaded with a stride of 4 * 9 bytes from rows[1] is rows[28], rows[29].
  const auto row3 = [&out] {
    std::uint32_t all[8] = {};
    amx::store<6>(all, 8);
    out[0] = all[6], out[1] = all[7];
    return out[0] == 128 && out[1] == 129;
  };
  asm volatile("tileloadd 4(%0,%1,4), %%tmm6" : : "r"(rows), "r"(9l) : "memory");
  CHECK(row3());
  asm volatile("mov %0, %%r13\nmov %1, %%r12\ntileloaddt1 4(%%r13,%%r12,1), %%tmm6"
               :
               : "r"(rows), "r"(36l)
               : "memory", "r12", "r13");
  CHECK(row3());
  asm volatile("tileloadd -0x1000(%0,%1,1), %%tmm6"
               :
               : "r"(reinterpret_cast<std::uintptr_t>(rows) + 0x1004), "r"(36l)
               : "memory");
  CHECK(row3());
  asm volatile("tileloadd (%0,%1,1), %%tmm6" : : "r"(rows + 28), "r"(-36l) : "memory");  // backwards
  std::uint32_t all[8] = {};
  amx::store<6>(all, 8);
  CHECK(all[0] == 128);
  CHECK(all[6] == 101);
  asm volatile("tileloadd 4(%0), %%tmm6" : : "r"(rows) : "memory");  // no index: every row is the first
  amx::store<6>(all, 8);
  CHECK(all[0] == 101);
  CHECK(all[7] == 102);
  amx::zero<6>();
  amx::store<6>(all, 8);
  for (const std::uint32_t word : all) CHECK(word == 0);
  amx::release();
  amx::store_config(read_back);
  CHECK(read_back.palette == 0);
}

TEST_CASE("what the hardware refuses is refused, with the hardware's signal and a line that names it") {
  REQUIRE(tiles_permitted());
  amx_emulator emulator;
  static const amx::tile_config good =
      amx::tile_config{}.set(0, 2, 8).set(1, 2, 8).set(2, 2, 8).set(3, 3, 8).set(4, 2, 12).set(5, 2, 6);
  alignas(64) static std::uint8_t bytes[64];
  static std::uint32_t memory[256];
  const auto refuses = [&](int signal, const char* words, auto body) {
    std::string said;
    CAPTURE(words);
    CHECK(end_of(body, said) == signal);
    if (!emulator.emulating()) return;
    CAPTURE(said);
    CHECK(said.find(words) != std::string::npos);
    CHECK(said.find("einkorn amx_emulator: ") == 0);
    CHECK(said.find("amx_emulator", 24) == std::string::npos);  // one line (qemu adds its own behind it)
  };
  const auto config_with = [&](int byte, int value, const char* words) {
    refuses(SIGSEGV, words, [=] {
      std::memcpy(bytes, &good, 64);
      bytes[byte] = static_cast<std::uint8_t>(value);
      asm volatile("ldtilecfg %0" : : "m"(bytes) : "memory");
    });
  };
  config_with(0, 2, "LDTILECFG is refused (#GP): the palette is neither 0 nor 1");
  for (const int byte : {2, 15, 32, 47, 56, 63}) config_with(byte, 1, "a reserved byte is not 0");
  config_with(16, 65, "more than 64 bytes a row");
  config_with(17, 1, "more than 64 bytes a row");
  config_with(48, 17, "more than 16 rows");
  config_with(48, 0, "only one of a tile's rows and bytes a row is 0");
  config_with(54, 1, "only one of a tile's rows and bytes a row is 0");

  refuses(SIGILL, "TILEZERO tmm3 is undefined (#UD): the tile is not configured", [] { amx::zero<3>(); });
  refuses(SIGILL, "TILELOADD tmm7 is undefined (#UD): the tile is not configured",
          [] { amx::load_config(good), amx::load<7>(memory, 8); });
  refuses(SIGILL, "TILESTORED tmm7 is undefined (#UD): the tile is not configured",
          [] { amx::load_config(good), amx::store<7>(memory, 8); });
  refuses(SIGILL, "TILELOADDT1 tmm5 is undefined (#UD): the tile's bytes a row are no multiple of 4",
          [] { amx::load_config(good), amx::loadt1<5>(memory, 8); });
  refuses(SIGILL, "TILELOADD tmm0 is undefined (#UD): start_row", [] {
    amx::tile_config late = good;
    late.start_row = 2;
    amx::load_config(late), amx::load<0>(memory, 8);
  });
  refuses(SIGILL, "TDPBF16PS tmm0, tmm0, tmm1 is undefined (#UD): the three tiles are not distinct", [] {
    amx::load_config(good);
    asm volatile(".byte 0xc4, 0xe2, 0x72, 0x5c, 0xc0");
  });
  refuses(SIGILL, "not distinct", [] {
    amx::load_config(good);
    asm volatile(".byte 0xc4, 0xe2, 0x73, 0x5e, 0xc1");
  });
  refuses(SIGILL, "not distinct", [] {
    amx::load_config(good);
    asm volatile(".byte 0xc4, 0xe2, 0x79, 0x5e, 0xc1");
  });
  refuses(SIGILL, "TDPBUUD tmm0, tmm1, tmm7 is undefined (#UD): a tile is not configured",
          [] { amx::load_config(good), amx::tdpbuud<0, 1, 7>(); });
  refuses(SIGILL, "rows differ from the first", [] { amx::load_config(good), amx::tdpbsud<3, 1, 2>(); });
  refuses(SIGILL, "columns differ from the second",
          [] { amx::load_config(good), amx::tdpbf16ps<0, 1, 4>(); });
  refuses(SIGILL, "first source's bytes a row / 4",
          [] { amx::load_config(good), amx::tdpbf16ps<0, 4, 2>(); });
  refuses(SIGILL, "no multiple of 4", [] { amx::load_config(good), amx::tdpbf16ps<0, 1, 5>(); });
  refuses(SIGILL, "TILEZERO tmm8 is undefined (#UD): it names a tile above tmm7",
          [] { asm volatile(".byte 0xc4, 0x62, 0x7b, 0x49, 0xc0"); });
  refuses(SIGILL, "no SIB byte", [] { asm volatile(".byte 0xc4, 0xe2, 0x7b, 0x4b, 0x08"); });
  refuses(SIGILL, "VEX.vvvv", [] { asm volatile(".byte 0xc4, 0xe2, 0x70, 0x49, 0xc0"); });
  std::string said;  // and what is legal is not refused
  CHECK(end_of([] { amx::load_config(good), amx::tdpbf16ps<0, 1, 2>(); }, said) == -1);
  CHECK(said.empty());
}

namespace {
std::atomic<int> foreign{0};
sigjmp_buf back;
void skip_ud2(int, siginfo_t* info, void* context) {
  ++foreign;
  if (info->si_code > 0) static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] += 2;
}
void jump_back(int) { siglongjmp(back, 1); }
[[gnu::force_align_arg_pointer]] void exit_7_at_ldtilecfg(int, siginfo_t*,
                                                          void* context) {  // as in the header
  amx_instruction in;
  const auto rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  const bool there = amx_decode(reinterpret_cast<const std::uint8_t*>(rip), in);
  _exit(there && in.op == amx_op::ldtilecfg ? 7 : 8);
}
struct sigaction handler_now() {
  struct sigaction now = {};
  sigaction(SIGILL, nullptr, &now);
  return now;
}
}  // namespace

TEST_CASE("other SIGILLs reach the handler that was there before, and it is back afterwards") {
  struct sigaction mine = {}, original = {};
  mine.sa_sigaction = skip_ud2;
  mine.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &mine, &original);
  foreign = 0;
  {
    amx_emulator emulator;
    for (int i = 0; i < 3; ++i) undefined_instruction();
    CHECK(foreign == 3);
    CHECK(emulator.count() == 0);
    raise(SIGILL);  // not from the CPU: passed on although it points at no instruction
    CHECK(foreign == 4);
  }
  CHECK((handler_now().sa_sigaction == skip_ud2));

  struct sigaction jumping = {};
  jumping.sa_handler = jump_back;
  sigaction(SIGILL, &jumping, nullptr);
  {
    amx_emulator emulator;
    volatile int jumps = 0;
    if (sigsetjmp(back, 1) != 0) jumps = jumps + 1;
    if (jumps < 2) undefined_instruction();
    CHECK(jumps == 2);
    if (sigsetjmp(back, 1) == 0 && emulator.emulating()) {
      amx::release();
      amx::zero<0>();  // a refused instruction is the previous handler's affair too
      CHECK(false);
    }
  }
  CHECK((handler_now().sa_handler == jump_back));
  sigaction(SIGILL, &original, nullptr);
}

TEST_CASE("without a handler before it, the program dies of other SIGILLs as it would have") {
  std::string said;
  CHECK(end_of(
            [] {
              signal(SIGILL, SIG_DFL);
              amx_emulator emulator;
              undefined_instruction();
            },
            said) == SIGILL);
  CHECK(end_of(
            [] {
              signal(SIGILL, SIG_DFL);
              amx_emulator emulator;
              raise(SIGILL);
            },
            said) == SIGILL);
  CHECK(end_of(
            [] {
              signal(SIGILL, SIG_IGN);
              amx_emulator emulator;
              undefined_instruction();
            },
            said) == SIGILL);
  CHECK(end_of(
            [] {
              signal(SIGILL, SIG_IGN);
              amx_emulator emulator;
              raise(SIGILL);
            },
            said) == -1);
  CHECK(said.empty());
}

TEST_CASE("a bad configuration reaches a SIGSEGV handler at the instruction itself") {
  if (cpu_has_amx()) return;
  std::string said;
  CHECK(end_of(
            [] {
              struct sigaction action = {};
              action.sa_flags = SA_SIGINFO;
              action.sa_sigaction = exit_7_at_ldtilecfg;
              sigaction(SIGSEGV, &action, nullptr);
              amx_emulator emulator;
              amx::tile_config bad;
              bad.palette = 9;
              amx::load_config(bad);
            },
            said) == -1 - 7);
}

TEST_CASE("each thread has tiles of its own") {
  REQUIRE(tiles_permitted());
  amx_emulator emulator;
  std::atomic<int> at_barrier{0}, wrong{0};
  const auto work = [&](int rows, std::uint32_t value) {
    const amx::tile_config config = amx::tile_config{}.set(2, rows, 64);
    std::vector<std::uint32_t> in(16 * 16, value), out(16 * 16);
    amx::load_config(config);
    amx::load<2>(in.data(), 64);
    for (int turn = 1; turn <= 200; ++turn) {
      ++at_barrier;
      while (at_barrier < 2 * turn) std::this_thread::yield();
      out.assign(out.size(), 0);
      amx::store<2>(out.data(), 64);
      amx::tile_config now;
      amx::store_config(now);
      wrong += std::memcmp(&now, &config, 64) != 0;
      for (int i = 0; i < 256; ++i) wrong += out[static_cast<std::size_t>(i)] != (i < 16 * rows ? value : 0);
    }
    amx::release();
  };
  std::thread other(work, 5, 55u);
  work(9, 99u);
  other.join();
  CHECK(wrong == 0);
  if (emulator.emulating()) CHECK(emulator.count(amx_op::tilestored) == 400);
}

TEST_CASE("emulators nest, count from their own beginning, and the last one cleans up") {
  if (cpu_has_amx()) return;
  const auto before = handler_now();
  CHECK_FALSE(einkorn::detail::state().amx_emulated);
  {
    amx_emulator outer;
    amx::release();
    {
      amx_emulator inner;
      CHECK(einkorn::detail::state().amx_emulated);
      amx::release();
      CHECK(inner.count(amx_op::tilerelease) == 1);
    }
    CHECK(einkorn::detail::state().amx_emulated);
    amx::release();
    CHECK(outer.count(amx_op::tilerelease) == 3);
    CHECK(outer.count() == 3);
  }
  CHECK_FALSE(einkorn::detail::state().amx_emulated);
  CHECK((handler_now().sa_handler == before.sa_handler));
  std::string said;
  CHECK(end_of([] { amx::release(); }, said) == SIGILL);
}

TEST_CASE("a caller's configuration survives a kernel's, its tile data does not") {
  REQUIRE(tiles_permitted());
  amx_emulator emulator;
  const amx::tile_config callers = amx::tile_config{}.set(1, 3, 12);
  amx::tile_config now;
  amx::load_config(callers);
  std::uint32_t words[48] = {1, 2, 3};
  amx::load<1>(words, 12);
  {
    const amx::tile_scope scope(amx::tile_config{}.set(0, 16, 64));
    amx::store_config(now);
    CHECK(now.rows[0] == 16);
    CHECK(now.rows[1] == 0);
  }
  amx::store_config(now);
  CHECK(std::memcmp(&now, &callers, 64) == 0);
  amx::store<1>(words, 12);
  CHECK(words[0] == 0);
  amx::release();
  { const amx::tile_scope scope(amx::tile_config{}.set(0, 16, 64)); }
  amx::store_config(now);
  const amx::tile_config* const zeros = &now;
  for (std::size_t i = 0; i < 64; ++i) CHECK(reinterpret_cast<const std::uint8_t*>(zeros)[i] == 0);
}

TEST_CASE("the amx level is emulated inside the scope only, and its self-test runs tile products") {
  if (cpu_has_amx()) return;
  if (!einkorn::isa_available(einkorn::isa::avx512_bf16)) {
    MESSAGE("skipped: the amx level's other instructions need AVX512-BF16");
    return;
  }
  const einkorn::isa before = einkorn::active_isa();
  CHECK(before != einkorn::isa::amx);
  CHECK_THROWS_AS(einkorn::force_isa(einkorn::isa::amx), einkorn::error);
  {
    amx_emulator emulator;
    einkorn::force_isa(einkorn::isa::amx);
    CHECK(einkorn::active_isa() == einkorn::isa::amx);
    CHECK(emulator.count(amx_op::tdpbf16ps) == 1);
    CHECK(emulator.count(amx_op::tdpbssd) == 1);
    CHECK(einkorn::explain().find("emulated") != std::string::npos);
  }
  CHECK_FALSE(einkorn::isa_available(einkorn::isa::amx));
  CHECK(einkorn::active_isa() == before);
}
