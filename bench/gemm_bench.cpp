// gemm/TYPE/LEVEL/LAYOUT/SHAPE[/packed][/plan]/threads:N: our product and every peer's in turn, on the same
// operands. TYPE is that of A, B and C; bf16_f32 and fp16_f32 store C as f32, since several peers can do
// nothing else.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "contest.hpp"
#include "machine.hpp"
#include "peers.hpp"
#include "registration.hpp"

namespace bench {
namespace {

using einkorn::any_matrix;
using einkorn::dtype;
using einkorn::isa;

struct types {
  const char* name;
  dtype a, b, c;
};
constexpr types all_types[] = {
    {"f32", dtype::f32, dtype::f32, dtype::f32},        {"bf16", dtype::bf16, dtype::bf16, dtype::bf16},
    {"bf16_f32", dtype::bf16, dtype::bf16, dtype::f32}, {"fp16", dtype::fp16, dtype::fp16, dtype::fp16},
    {"fp16_f32", dtype::fp16, dtype::fp16, dtype::f32}, {"u8s8", dtype::u8, dtype::s8, dtype::i32},
    {"s8s8", dtype::s8, dtype::s8, dtype::i32}};

struct shape {
  index batch, rows, cols, depth;
  bool a_transposed, b_transposed;
  bool quick = false;
  double flop() const { return 2.0 * static_cast<double>(batch * rows * cols) * static_cast<double>(depth); }
  std::string text() const {
    return std::string(a_transposed ? "T" : "N") + (b_transposed ? "T" : "N") + "/" +
           (batch > 1 ? std::to_string(batch) + "x" : "") + std::to_string(rows) + "x" +
           std::to_string(cols) + "x" + std::to_string(depth);
  }
};
constexpr bool T = true, N = false;
constexpr shape shapes[] = {
    // BERT-base, 12 x 384 tokens: forward, gradients of inputs, gradients of weights, attention's products
    {1, 4608, 768, 768, N, T, true},
    {1, 4608, 3072, 768, N, T},
    {1, 4608, 768, 3072, N, T, true},
    {1, 4608, 768, 768, N, N},
    {1, 4608, 768, 3072, N, N},
    {1, 4608, 3072, 768, N, N},
    {1, 768, 768, 4608, T, N, true},
    {1, 3072, 768, 4608, T, N},
    {144, 384, 384, 64, N, T, true},
    {144, 384, 64, 384, N, N, true},
    // small
    {1, 8, 8, 8, N, N},
    {1, 16, 16, 16, N, N},
    {1, 32, 32, 32, N, N},
    {1, 48, 48, 48, N, N},
    {1, 64, 64, 64, N, N, true},
    {1, 96, 96, 96, N, N},
    {1, 128, 128, 128, N, N, true},
    {1, 17, 333, 129, N, N, true},
    {1, 64, 64, 64, N, T},
    {1, 128, 128, 128, N, T},
    {1, 17, 333, 129, N, T},
    // one and a few rows, weights in cache and beyond
    {1, 1, 768, 768, N, T},
    {1, 1, 3072, 768, N, T},
    {1, 1, 4096, 4096, N, T, true},
    {1, 1, 8192, 8192, N, T},
    {1, 1, 768, 768, N, N},
    {1, 1, 8192, 8192, N, N},
    {1, 4, 768, 768, N, T},
    {1, 4, 8192, 8192, N, T},
    {1, 16, 768, 768, N, T},
    {1, 16, 3072, 768, N, T},
    {1, 16, 4096, 4096, N, T},
    // tall and skinny, square
    {1, 4608, 2, 768, N, T},
    {1, 4608, 64, 768, N, T},
    {1, 64, 4608, 768, N, T},
    {1, 2, 768, 4608, T, N},
    {1, 512, 512, 512, N, T},
    {1, 2048, 2048, 2048, N, T},
};

any_matrix matrix(const memory& m, dtype type, index rows, index cols, bool transposed) {
  any_matrix out;
  out.data = m.data();
  out.rows = rows;
  out.cols = cols;
  out.stride = transposed ? rows : cols;
  out.type = type;
  out.transposed = transposed;
  return out;
}

/// The operands of one product, and our way of multiplying them.
struct product {
  shape s;
  types t;
  memory a, b, c;
  einkorn::packed_matrix weights;
  einkorn::executor exec = executor();

  product(const shape& s_, const types& t_, bool packed) : s(s_), t(t_) {
    a = memory(s.batch * s.rows * s.depth * size_of(t.a));
    b = memory(s.batch * s.depth * s.cols * size_of(t.b));
    c = memory(s.batch * s.rows * s.cols * size_of(t.c));
    fill(a, t.a, 1);
    fill(b, t.b, 2);
    if (packed) pack_into(weights, b_matrix(), t.a, exec);
  }
  any_matrix a_matrix() const { return matrix(a, t.a, s.rows, s.depth, s.a_transposed); }
  any_matrix b_matrix() const { return matrix(b, t.b, s.depth, s.cols, s.b_transposed); }
  any_matrix c_matrix() const { return matrix(c, t.c, s.rows, s.cols, false); }

  /// A checked call, as a caller makes it.
  void multiply(const einkorn::epilogue& e = {}) const {
    if (weights.data() != nullptr)
      einkorn::detail::gemm_packed(a_matrix(), weights, c_matrix(), e, exec, nullptr);
    else
      einkorn::detail::gemm_any(a_matrix(), b_matrix(), c_matrix(), e,
                                {s.batch, s.rows * s.depth, s.depth * s.cols, s.rows * s.cols}, exec,
                                nullptr);
  }
};

/// The same product as a plan.
einkorn::gemm_plan plan_of(const product& p) {
  const auto typed = [&]<class A, class B, class C>(A, B, C) {
    const auto view = [](auto zero, const any_matrix& m) {
      using Element = decltype(zero);
      return einkorn::matrix_view<Element>(static_cast<Element*>(m.data), m.rows, m.cols, m.stride,
                                           m.transposed);
    };
    const auto a = view(A(), p.a_matrix());
    const auto c = view(C(), p.c_matrix());
    if (p.weights.data() != nullptr) return einkorn::gemm_plan(a, p.weights, c, {}, p.exec);
    return einkorn::gemm_plan(a, view(B(), p.b_matrix()), c, {}, p.exec);
  };
  const bool wide = p.t.c == dtype::f32;
  switch (p.t.a) {
    case dtype::bf16:
      return wide ? typed(einkorn::bf16(), einkorn::bf16(), 0.0f)
                  : typed(einkorn::bf16(), einkorn::bf16(), einkorn::bf16());
    case dtype::fp16:
      return wide ? typed(einkorn::fp16(), einkorn::fp16(), 0.0f)
                  : typed(einkorn::fp16(), einkorn::fp16(), einkorn::fp16());
    case dtype::u8:
      return typed(std::uint8_t(), std::int8_t(), std::int32_t());
    case dtype::s8:
      return typed(std::int8_t(), std::int8_t(), std::int32_t());
    default:
      return typed(0.0f, 0.0f, 0.0f);
  }
}

float value(const memory& m, dtype type, index i) {
  switch (type) {
    case dtype::f32:
      return m.as<float>()[i];
    case dtype::bf16:
      return m.as<einkorn::bf16>()[i];
    case dtype::fp16:
      return m.as<einkorn::fp16>()[i];
    default:
      return static_cast<float>(m.as<std::int32_t>()[i]);
  }
}

/// Empty when the peer's C is ours within what rounding allows, else where it is not.
std::string difference(const product& p, const memory& expected) {
  if (p.t.c == dtype::i32)
    return std::memcmp(p.c.data(), expected.data(), static_cast<std::size_t>(p.c.bytes())) == 0
               ? ""
               : "its integers are not ours";
  const double eps = p.t.c == dtype::bf16 ? 0x1p-7 : p.t.c == dtype::fp16 ? 0x1p-10 : 0;
  const double sums = static_cast<double>(p.s.depth) * 0.25 * static_cast<double>(p.s.depth + 2) * 0x1p-23;
  const index count = p.c.bytes() / size_of(p.t.c);
  for (index i = 0; i < count; ++i) {
    const double ours = value(expected, p.t.c, i), theirs = value(p.c, p.t.c, i);
    if (!(std::abs(ours - theirs) <= 2 * sums + eps * std::abs(ours)))
      return "element " + std::to_string(i) + " is " + std::to_string(theirs) + ", ours " +
             std::to_string(ours);
  }
  return "";
}

void run(benchmark::State& state, const std::string& title, const shape& s, const types& t, bool packed,
         bool planned) {
  const isa level = einkorn::active_isa();
  const int threads = settings().threads;
  const product p(s, t, packed);
  p.multiply();
  memory expected(p.c.bytes());
  std::memcpy(expected.data(), p.c.data(), static_cast<std::size_t>(p.c.bytes()));

  contest times;
  std::optional<einkorn::gemm_plan> plan;
  if (planned) {
    plan.emplace(plan_of(p));
    (*plan)();
    if (std::memcmp(expected.data(), p.c.data(), static_cast<std::size_t>(p.c.bytes())) != 0)
      return state.SkipWithError("the plan computes another thing than the checked call");
    times.add("einkorn", [&] { (*plan)(); });
  } else {
    times.add("einkorn", [&] { p.multiply(); });
  }
  const register_loop peak = register_peak(level, t.a);
  if (peak.run) times.add("peak", peak.run);

  // A few rows only: the weights are read once, as fast as memory gives them.
  const bool skinny = s.rows <= 16 && s.batch == 1 && s.a_transposed == false;
  if (skinny) times.add("stream", stream_loop({{stream::read, p.b.data(), p.b.bytes()}}, false));

  // Where the type is widened to f32, our own f32 says what that costs.
  std::unique_ptr<product> wide;
  if (t.a == dtype::fp16 || (t.a == dtype::bf16 && level < isa::avx512_bf16)) {
    wide = std::make_unique<product>(s, all_types[0], packed);
    wide->multiply();
    times.add("own_f32", [&] { wide->multiply(); });
  }

  std::vector<prepared> rivals;
  rivals.reserve(load_peers().size());
  std::string remarks;
  for (const peer& who : load_peers()) {
    if (who.functions == nullptr) continue;
    const auto type = [](dtype d) { return static_cast<peer_type>(d); };
    const peer_gemm problem{s.batch,   s.rows,     s.cols,         s.depth,        type(t.a),
                            type(t.b), type(t.c),  s.a_transposed, s.b_transposed, packed,
                            threads,   p.a.data(), p.b.data(),     p.c.data()};
    prepared rival(who, problem);
    if (!rival) {
      if (std::getenv("EINKORN_BENCH_REFUSALS") != nullptr)
        std::fprintf(stderr, "%s: %s %s\n", title.c_str(), who.name.c_str(), rival.refusal().c_str());
      continue;
    }
    std::memset(p.c.data(), 0xff, static_cast<std::size_t>(p.c.bytes()));
    rival.run();
    if (const std::string wrong = difference(p, expected); !wrong.empty()) {
      remarks += (remarks.empty() ? "" : ", ") + ("WRONG: " + who.name + ": " + wrong);
      std::fprintf(stderr, "%s: %s computes another thing: %s\n", title.c_str(), who.name.c_str(),
                   wrong.c_str());
      continue;
    }
    rivals.push_back(std::move(rival));
    const prepared* const call = &rivals.back();
    times.add(who.name, [call] { call->run(); });
  }

  for (auto _ : state) times.measure();
  state.counters["GFLOP/s"] = s.flop() / times.median(0) * 1e-9;
  report(state, times, remarks);
  if (peak.run) {  // the share of the peak: what registers alone would take for the same work, over ours
    state.counters["%peak"] = 100 * times.ratio_to(1).median * s.flop() / peak.flop;
    state.counters["peak_GFLOP/s"] = peak.flop / times.median(1) * 1e-9;
  }
}

/// GEMM + bias + GELU with the pre-activation stored, against the bare product: own_bare_ratio is its time
/// over the whole's.
void run_epilogue(benchmark::State& state, const shape& s, const types& t) {
  const product p(s, t, true);
  memory pre(p.c.bytes()), bias(s.cols * 4);
  fill(bias, dtype::f32, 3);
  einkorn::epilogue e;
  e.bias = bias.as<float>();
  e.act = einkorn::activation::gelu;
  e.preactivation = einkorn::any_output(matrix(pre, t.c, s.rows, s.cols, false));
  contest times;
  times.add("einkorn", [&] { p.multiply(e); });
  times.add("own_bare", [&] { p.multiply(); });
  for (auto _ : state) times.measure();
  state.counters["GFLOP/s"] = s.flop() / times.median(0) * 1e-9;
  report(state, times, "");
}

template <class Run>
void add(const std::string& name, Run body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

/// Two threads are worth a look where there is work for them. The types beside the usual three are measured
/// at fewer of the large shapes.
bool wanted(const shape& s, std::string_view type) {
  const bool usual = type == "f32" || type == "bf16" || type == "u8s8";
  if (settings().quick) return s.quick && usual && (settings().threads == 1 || s.flop() >= 1e9);
  return (usual || s.quick || s.flop() < 1e8) && (settings().threads == 1 || s.flop() >= 1e6);
}

}  // namespace

void register_gemm() {
  const isa level = einkorn::active_isa();
  const std::string tail = "/threads:" + std::to_string(settings().threads);
  const auto begin = [&](const char* operation, const types& t) {
    return std::string(operation) + "/" + t.name + "/" + einkorn::name(level) + "/";
  };
  for (const types& t : all_types) {
    const std::string_view type = t.name;
    for (const shape& s : shapes) {
      if (!wanted(s, type)) continue;
      for (const bool packed : {false, true}) {
        if (packed && s.batch > 1) continue;
        for (const bool planned : {false, true}) {
          if (planned && (s.batch > 1 || s.flop() > 5e7 || settings().threads > 1)) continue;
          const std::string title =
              begin("gemm", t) + s.text() + (packed ? "/packed" : "") + (planned ? "/plan" : "") + tail;
          add(title, [=](benchmark::State& state) { run(state, title, s, t, packed, planned); });
        }
      }
    }
  }
  for (const types& t : all_types) {
    if (t.c != t.a) continue;
    for (const shape& s : {shapes[0], shapes[1]})
      if (wanted(s, t.name))
        add(begin("gemm_bias_gelu", t) + s.text() + "/packed" + tail,
            [s, t](benchmark::State& state) { run_epilogue(state, s, t); });
  }
}

}  // namespace bench
