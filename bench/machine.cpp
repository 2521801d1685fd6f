#include "machine.hpp"

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "settings.hpp"

#if defined(_OPENMP)
#include <einkorn/openmp.hpp>
#endif

namespace bench {
namespace {

using einkorn::dtype;
using einkorn::isa;

// ---- registers only: enough independent sums to hide the latency, nothing from memory

#define EINKORN_OP(op, r, n) op " %%" r "14, %%" r "15, %%" r #n "\n"
#define EINKORN_OPS_12(op, r) \
  EINKORN_OP(op, r, 0)        \
  EINKORN_OP(op, r, 1)        \
  EINKORN_OP(op, r, 2)        \
  EINKORN_OP(op, r, 3)        \
  EINKORN_OP(op, r, 4)        \
  EINKORN_OP(op, r, 5)        \
  EINKORN_OP(op, r, 6)        \
  EINKORN_OP(op, r, 7) EINKORN_OP(op, r, 8) EINKORN_OP(op, r, 9) EINKORN_OP(op, r, 10) EINKORN_OP(op, r, 11)
#define EINKORN_OPS_24(op, r) \
  EINKORN_OPS_12(op, r)       \
  EINKORN_OP(op, r, 16)       \
  EINKORN_OP(op, r, 17)       \
  EINKORN_OP(op, r, 18)       \
  EINKORN_OP(op, r, 19)       \
  EINKORN_OP(op, r, 20)       \
  EINKORN_OP(op, r, 21)       \
  EINKORN_OP(op, r, 22)       \
  EINKORN_OP(op, r, 23)       \
  EINKORN_OP(op, r, 24) EINKORN_OP(op, r, 25) EINKORN_OP(op, r, 26) EINKORN_OP(op, r, 27)
#define EINKORN_LOW_REGISTERS                                                                                \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15"
// vzeroall leaves registers 16 to 31 alone: whatever is in them goes into sums that nobody reads. Products
// are 0, so the sums are no denormals unless they were.
#define EINKORN_LOOP(name, ops)                                          \
  [[gnu::noinline]] void name(index rounds) {                            \
    __asm__ volatile("vzeroall\n1:\n" ops "dec %0\njnz 1b\nvzeroupper\n" \
                     : "+r"(rounds)::EINKORN_LOW_REGISTERS, "memory");   \
  }
EINKORN_LOOP(fma_ymm, EINKORN_OPS_12("vfmadd231ps", "ymm") EINKORN_OPS_12("vfmadd231ps", "ymm"))
EINKORN_LOOP(maddwd_ymm, EINKORN_OPS_12("vpmaddwd", "ymm") EINKORN_OPS_12("vpmaddwd", "ymm"))
EINKORN_LOOP(fma_zmm, EINKORN_OPS_24("vfmadd231ps", "zmm"))
EINKORN_LOOP(dpbf16_zmm, EINKORN_OPS_24("vdpbf16ps", "zmm"))
EINKORN_LOOP(dpbusd_zmm, EINKORN_OPS_24("vpdpbusd", "zmm"))
constexpr double instructions = 24;

// Six tiles of sums, two of operands.
#define EINKORN_TILE_LOOP(name, op)                                                                         \
  [[gnu::noinline]] void name(index rounds) {                                                               \
    alignas(64) unsigned char shape[64] = {1};                                                              \
    for (int tile = 0; tile < 8; ++tile) {                                                                  \
      shape[16 + 2 * tile] = 64;                                                                            \
      shape[48 + tile] = 16;                                                                                \
    }                                                                                                       \
    __asm__ volatile("ldtilecfg %1\n1:\n" op " %%tmm7,%%tmm6,%%tmm0\n" op " %%tmm7,%%tmm6,%%tmm1\n" op      \
                     " %%tmm7,%%tmm6,%%tmm2\n" op " %%tmm7,%%tmm6,%%tmm3\n" op " %%tmm7,%%tmm6,%%tmm4\n" op \
                     " %%tmm7,%%tmm6,%%tmm5\ndec %0\njnz 1b\ntilerelease\n"                                 \
                     : "+r"(rounds)                                                                         \
                     : "m"(shape)                                                                           \
                     : "memory");                                                                           \
  }
EINKORN_TILE_LOOP(tile_bf16, "tdpbf16ps")
EINKORN_TILE_LOOP(tile_int8, "tdpbusd")

// ---- streams

constexpr index piece = 4096;  // bytes of a stream of the widest elements that are moved before the next one

[[gnu::target("avx2")]] void read_avx2(const char* from, index bytes) {
  __m256i sum = _mm256_setzero_si256();
  for (index i = 0; i < bytes; i += 32)
    sum = _mm256_xor_si256(sum, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
  __asm__ volatile("" ::"x"(sum));
}
[[gnu::target("avx2")]] void write_avx2(char* to, index bytes, bool streaming) {
  __m256i value = _mm256_setzero_si256();
  __asm__ volatile("" : "+x"(value));  // or the compiler makes a memset of it, which has ideas of its own
  for (index i = 0; i < bytes; i += 32) {
    if (streaming)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), value);
    else
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), value);
  }
  __asm__ volatile("" ::: "memory");
}
[[gnu::target("avx2")]] void update_avx2(char* to, index bytes) {
  __m256i zero = _mm256_setzero_si256();
  __asm__ volatile("" : "+x"(zero));  // or nothing is left to do
  for (index i = 0; i < bytes; i += 32) {
    auto* const place = reinterpret_cast<__m256i*>(to + i);
    _mm256_storeu_si256(place, _mm256_xor_si256(_mm256_loadu_si256(place), zero));
  }
}

void each_thread(const std::function<void(int)>& work) {
  const int threads = settings().threads;
  if (threads == 1) return work(0);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
  for (int t = 0; t < threads; ++t) work(t);
}

}  // namespace

memory::memory(index bytes) : bytes_(bytes) {
  static std::atomic<index> number{0};
  constexpr index page = index{2} << 20;
  const index offset = (number++ % 13) * (4096 + 320);
  const bool large = bytes + offset >= page / 2;
  const index alignment = large ? page : 4096;
  const index size = (bytes + offset + 256 + alignment - 1) / alignment * alignment;
  void* const base = std::aligned_alloc(static_cast<std::size_t>(alignment), static_cast<std::size_t>(size));
  if (base == nullptr) throw std::bad_alloc();
  if (large) madvise(base, static_cast<std::size_t>(size), MADV_HUGEPAGE);
  std::memset(base, 0, static_cast<std::size_t>(size));
  owner_ = {base, std::free};
  data_ = static_cast<char*>(base) + offset;
}

void fill(const memory& m, dtype type, unsigned seed) {
  unsigned state = seed * 2654435761u + 1;
  const index count = m.bytes() / size_of(type);
  for (index i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const float x = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
    switch (type) {
      case dtype::f32:
        m.as<float>()[i] = x;
        break;
      case dtype::bf16:
        m.as<einkorn::bf16>()[i] = einkorn::bf16(x);
        break;
      case dtype::fp16:
        m.as<einkorn::fp16>()[i] = einkorn::fp16(x);
        break;
      case dtype::u8:
        m.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(state >> 25);
        break;
      case dtype::s8:
        m.as<std::int8_t>()[i] = static_cast<std::int8_t>(static_cast<int>(state >> 8) % 255 - 127);
        break;
      case dtype::i32:
        m.as<std::int32_t>()[i] = 0;
        break;
    }
  }
}

einkorn::executor executor() {
#if defined(_OPENMP)
  if (settings().threads > 1) return einkorn::openmp_executor(settings().threads);
#endif
  return einkorn::serial_executor();
}

void start_threads() {
  each_thread([](int) {});
}

register_loop register_peak(isa level, dtype type) {
  const bool integer = type == dtype::u8 || type == dtype::s8;
  void (*loop)(index) = nullptr;
  double flop = 0;  // of one round
  index rounds = 4000;
  if (level == isa::amx && !einkorn::detail::state().amx_emulated && (integer || type == dtype::bf16)) {
    loop = integer ? tile_int8 : tile_bf16;
    flop = 6 * 16 * 16 * (integer ? 64 : 32) * 2;
    rounds = 500;
  } else if (level >= isa::avx512_vnni) {
    const bool native = level >= isa::avx512_bf16 && type == dtype::bf16 && !einkorn::detail::widens_bf16();
    loop = integer ? dpbusd_zmm : native ? dpbf16_zmm : fma_zmm;
    flop = instructions * (integer ? 128 : native ? 64 : 32);
  } else if (level == isa::avx2) {
    loop = integer ? maddwd_ymm : fma_ymm;
    flop = instructions * (integer ? 32 : 16);
  }
  if (loop == nullptr) return {};
  return {[loop, rounds] { each_thread([&](int) { loop(rounds); }); },
          flop * static_cast<double>(rounds) * settings().threads};
}

double bytes_of(const std::vector<stream>& streams) {
  double sum = 0;
  for (const stream& s : streams) sum += static_cast<double>(s.bytes) * (s.how == stream::update ? 2 : 1);
  return sum;
}

std::function<void()> stream_loop(std::vector<stream> streams, bool streaming) {
  index longest = 0;
  for (const stream& s : streams) longest = std::max(longest, s.bytes);
  const index pieces = (longest + piece - 1) / piece;
  return [=] {
    each_thread([&](int thread) {
      const index first = pieces * thread / settings().threads;
      const index last = pieces * (thread + 1) / settings().threads;
      for (index i = first; i < last; ++i) {
        for (const stream& s : streams) {
          const index begin = s.bytes * i / pieces / 64 * 64, end = s.bytes * (i + 1) / pieces / 64 * 64;
          char* const at = static_cast<char*>(s.data) + begin;
          if (s.how == stream::read) read_avx2(at, end - begin);
          if (s.how == stream::write) write_avx2(at, end - begin, streaming);
          if (s.how == stream::update) update_avx2(at, end - begin);
        }
      }
      if (streaming) _mm_sfence();
    });
  };
}

index last_level_cache() {
  const einkorn::cache_sizes sizes = einkorn::caches();
  return std::max<index>({static_cast<index>(sizes.l3), static_cast<index>(sizes.l2), index{1} << 20});
}

}  // namespace bench
