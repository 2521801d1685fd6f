// gemm/TYPE/LEVEL/LAYOUT/SHAPE[/packed]/threads:N: GFLOP/s, the per cent of what registers alone reach in the
// same run, and with oneDNN its GFLOP/s from calls that alternate with ours.
#include "gemm_bench.hpp"

#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>

#include <einkorn/openmp.hpp>
#endif

namespace bench {
namespace {

using einkorn::dtype;
using einkorn::isa;
using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point start) {
  return std::chrono::duration<double>(clock::now() - start).count();
}

// ---- what registers alone reach: independent multiply-adds, nothing from memory

#define EINKORN_PEAK_REGISTERS(op, r)                                                                      \
  op " %%" r "15,%%" r "14,%%" r "0\n" op " %%" r "15,%%" r "14,%%" r "1\n" op " %%" r "15,%%" r "14,%%" r \
     "2\n" op " %%" r "15,%%" r "14,%%" r "3\n" op " %%" r "15,%%" r "14,%%" r "4\n" op " %%" r "15,%%" r  \
     "14,%%" r "5\n" op " %%" r "15,%%" r "14,%%" r "6\n" op " %%" r "15,%%" r "14,%%" r "7\n" op " %%" r  \
     "15,%%" r "14,%%" r "8\n" op " %%" r "15,%%" r "14,%%" r "9\n"
#define EINKORN_PEAK(name, op, r)                                                                    \
  [[gnu::noinline]] void name(int rounds) {                                                          \
    for (int i = 0; i < rounds; ++i)                                                                 \
      __asm__ volatile(EINKORN_PEAK_REGISTERS(op, r)::                                               \
                           : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                             "xmm9");                                                                \
  }
EINKORN_PEAK(fma_ymm, "vfmadd231ps", "ymm")
EINKORN_PEAK(fma_zmm, "vfmadd231ps", "zmm")
EINKORN_PEAK(dpbf16_zmm, "vdpbf16ps", "zmm")
EINKORN_PEAK(dpbusd_zmm, "vpdpbusd", "zmm")
EINKORN_PEAK(maddwd_ymm, "vpmaddwd", "ymm")

/// GFLOP/s (integer: Gop/s) of one core, best of many short runs; 0 where it is not measured.
double register_peak(isa level, dtype type) {
  const bool integer = type == dtype::u8 || type == dtype::s8;
  void (*loop)(int) = nullptr;
  double flops = 0;  // per instruction
  if (level >= isa::avx512_vnni) {
    const bool native = level >= isa::avx512_bf16 && type == dtype::bf16 && !einkorn::detail::widens_bf16();
    loop = integer ? dpbusd_zmm : native ? dpbf16_zmm : fma_zmm;
    flops = integer ? 128 : native ? 64 : 32;
  } else if (level == isa::avx2) {
    loop = integer ? maddwd_ymm : fma_ymm;
    flops = integer ? 32 : 16;
  }
  if (loop == nullptr) return 0;
  double best = 1e30;
  for (int i = 0; i < 400; ++i) {
    const auto start = clock::now();
    loop(2000);
    best = std::min(best, seconds_since(start));
  }
  return flops * 10 * 2000 / best * 1e-9;
}

// ---- one benchmark

struct settings {
  gemm_shape shape;
  dtype a, b, c;
  isa level;
  bool packed;
  int threads;
};

einkorn::executor executor_of(int threads) {
#if defined(_OPENMP)
  return einkorn::openmp_executor(threads);
#else
  static_cast<void>(threads);
  return einkorn::serial_executor();
#endif
}

/// Small numbers, so that no product is denormal or infinite.
std::vector<char> filled(dtype type, index count) {
  std::vector<char> bytes(static_cast<std::size_t>(count * size_of(type)) + 64);
  unsigned state = 1;
  for (index i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const float x = static_cast<float>(state >> 24) / 256.0f - 0.5f;
    char* const to = bytes.data() + i * size_of(type);
    const auto put = [&](auto value) { std::memcpy(to, &value, sizeof(value)); };
    if (type == dtype::f32) put(x);
    if (type == dtype::bf16) put(einkorn::bf16(x));
    if (type == dtype::fp16) put(einkorn::fp16(x));
    if (type == dtype::u8 || type == dtype::s8) put(static_cast<std::int8_t>(state >> 25));
  }
  return bytes;
}

void run(benchmark::State& state, const settings& s) {
  const gemm_shape& g = s.shape;
  einkorn::force_isa(s.level);
  const std::vector<char> a_memory = filled(s.a, g.batch * g.rows * g.depth);
  const std::vector<char> b_memory = filled(s.b, g.batch * g.depth * g.cols);
  std::vector<char> c_memory(static_cast<std::size_t>(g.batch * g.rows * g.cols * size_of(s.c)) + 64);
  const auto matrix = [](const void* data, dtype type, index rows, index cols, bool transposed) {
    einkorn::any_matrix m;
    m.data = const_cast<void*>(data);
    m.rows = rows;
    m.cols = cols;
    m.stride = transposed ? rows : cols;
    m.type = type;
    m.transposed = transposed;
    return m;
  };
  const einkorn::any_matrix a = matrix(a_memory.data(), s.a, g.rows, g.depth, g.a_transposed);
  const einkorn::any_matrix b = matrix(b_memory.data(), s.b, g.depth, g.cols, g.b_transposed);
  const einkorn::any_matrix c = matrix(c_memory.data(), s.c, g.rows, g.cols, false);
  const einkorn::executor exec = executor_of(s.threads);
  const einkorn::batch_layout batch{g.batch, g.rows * g.depth, g.depth * g.cols, g.rows * g.cols};
  einkorn::packed_matrix packed;
  if (s.packed) pack_into(packed, b, s.a, exec);
  const auto ours = [&] {
    if (s.packed)
      einkorn::detail::gemm_packed(a, packed, c, {}, exec, nullptr);
    else
      einkorn::detail::gemm_any(a, b, c, {}, batch, exec, nullptr);
  };
#if EINKORN_BENCH_ONEDNN
#if defined(_OPENMP)
  omp_set_num_threads(s.threads);
#endif
  onednn_matmul* const peer = onednn_prepare({g, s.a, s.b, s.c, a.data, b.data, c_memory.data()}, s.packed);
  if (peer != nullptr) onednn_run(*peer);
#endif
  ours();
  double best = 1e30, peer_best = 1e30;
  std::vector<double> ratios;
  for (auto _ : state) {
    auto start = clock::now();
    ours();
    const double time = seconds_since(start);
    state.SetIterationTime(time);
    best = std::min(best, time);
#if EINKORN_BENCH_ONEDNN
    if (peer != nullptr) {
      start = clock::now();
      onednn_run(*peer);
      const double peer_time = seconds_since(start);
      peer_best = std::min(peer_best, peer_time);
      ratios.push_back(peer_time / time);
    }
#endif
  }
  const double flops = 2e-9 * static_cast<double>(g.batch * g.rows * g.cols) * static_cast<double>(g.depth);
  state.counters["GFLOP/s"] = flops / best;
  const double peak = register_peak(s.level, s.a) * s.threads;
  if (peak > 0) state.counters["%peak"] = 100 * flops / best / peak;
  if (!ratios.empty()) {
    std::nth_element(ratios.begin(), ratios.begin() + static_cast<index>(ratios.size() / 2), ratios.end());
    state.counters["onednn"] = flops / peer_best;
    state.counters["ratio"] = ratios[ratios.size() / 2];  // median of neighbouring calls; > 1: we are ahead
  }
#if EINKORN_BENCH_ONEDNN
  onednn_release(peer);
#endif
  einkorn::reset_isa();
}

constexpr gemm_shape shapes[] = {
    {1, 4608, 768, 768, false, true},                                      // attention projections, forward
    {1, 4608, 3072, 768, false, true},                                     // feed-forward up
    {1, 4608, 768, 3072, false, true},                                     // feed-forward down
    {1, 4608, 768, 768, false, false},                                     // gradients of the inputs
    {1, 4608, 3072, 768, false, false}, {1, 768, 768, 4608, true, false},  // gradients of the weights
    {1, 3072, 768, 4608, true, false},  {144, 384, 384, 64, false, true},  // attention scores
    {144, 384, 64, 384, false, false},                                     // attention values
    {1, 1, 768, 768, false, true},      {1, 17, 333, 129, false, true},   {1, 64, 64, 64, false, true},
    {1, 128, 128, 128, false, true},    {1, 512, 512, 512, false, true},  {1, 2048, 2048, 2048, false, true},
};

}  // namespace

void register_gemm() {
  struct types {
    const char* name;
    dtype a, b, c;
  };
  constexpr types all[] = {{"f32", dtype::f32, dtype::f32, dtype::f32},
                           {"bf16", dtype::bf16, dtype::bf16, dtype::bf16},
                           {"fp16", dtype::fp16, dtype::fp16, dtype::fp16},
                           {"u8s8", dtype::u8, dtype::s8, dtype::i32},
                           {"s8s8", dtype::s8, dtype::s8, dtype::i32}};
  for (int i = einkorn::isa_count - 1; i >= 0; --i) {
    const isa level = static_cast<isa>(i);
    if (!einkorn::isa_available(level)) continue;
    for (const types& t : all) {
      for (const gemm_shape& g : shapes) {
        for (const bool packed : {false, true}) {
          if (packed && g.batch > 1) continue;
          std::string name = std::string("gemm/") + t.name + "/" + einkorn::name(level) + "/" +
                             (g.a_transposed ? "T" : "N") + (g.b_transposed ? "T" : "N") + "/" +
                             (g.batch > 1 ? std::to_string(g.batch) + "x" : "") + std::to_string(g.rows) +
                             "x" + std::to_string(g.cols) + "x" + std::to_string(g.depth) +
                             (packed ? "/packed" : "");
          for (const int threads : {1, 2}) {
            const settings s{g, t.a, t.b, t.c, level, packed, threads};
            benchmark::RegisterBenchmark((name + "/threads:" + std::to_string(threads)).c_str(),
                                         [s](benchmark::State& state) { run(state, s); })
                ->UseManualTime()
                ->Unit(benchmark::kMicrosecond);
          }
        }
      }
    }
  }
}

}  // namespace bench
