// OPERATION/TYPE/LEVEL/SHAPE/PLACEMENT/threads:N: ours, oneDNN's where it has the operation, and a loop that
// moves the same bytes with next to no arithmetic: %stream is its time over ours, %stream_nt the same with
// stores that pass the caches by.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "contest.hpp"
#include "machine.hpp"
#include "peers.hpp"
#include "registration.hpp"
#include "rows.hpp"

namespace bench {
namespace {

using einkorn::dtype;

/// Runs `call` on the next set each time.
std::function<void()> in_turn(int sets, std::function<void(int)> call) {
  return [sets, call, i = 0]() mutable {
    call(i);
    i = i + 1 == sets ? 0 : i + 1;
  };
}

std::string difference(const std::vector<float>& theirs, const std::vector<float>& ours, dtype type) {
  const double eps = type == dtype::f32 ? 1e-5 : 0x1p-6;
  double largest = 0;
  for (const float x : ours) largest = std::max(largest, std::abs(static_cast<double>(x)));
  for (std::size_t i = 0; i < ours.size(); ++i)
    if (!(std::abs(static_cast<double>(theirs[i]) - ours[i]) <= eps * (std::abs(ours[i]) + 0.05 * largest)))
      return "element " + std::to_string(i) + " is " + std::to_string(theirs[i]) + ", ours " +
             std::to_string(ours[i]);
  return "";
}

void run(benchmark::State& state, const std::string& title, const std::string& operation, dtype type,
         placement where) {
  const rows_operation op = make_operation(operation, type, where);
  contest times;
  op.call(0);
  times.add("einkorn", in_turn(op.sets, op.call));

  std::string remarks;
  std::vector<std::shared_ptr<std::vector<prepared>>> rivals;
  for (const peer& who : load_peers()) {
    if (who.functions == nullptr || who.functions->prepare_rows == nullptr || !op.peer(0)) continue;
    const auto calls = std::make_shared<std::vector<prepared>>();
    for (int i = 0; i < op.sets; ++i) calls->emplace_back(who, *op.peer(i));
    if (!calls->front()) {
      remarks += (remarks.empty() ? "" : ", ") + who.name + ": " + calls->front().refusal();
      continue;
    }
    op.call(0);
    const std::vector<float> expected = op.result(0);
    const peer_rows one = *op.peer(0);
    const bool backward = operation.ends_with("_backward");  // y is read there
    std::memset(backward ? one.dx : one.y, 0xff,
                static_cast<std::size_t>(one.rows * one.cols * size_of(type)));
    calls->front().run();
    if (const std::string wrong = difference(op.result(0), expected, type); !wrong.empty()) {
      remarks += (remarks.empty() ? "" : ", ") + ("WRONG: " + who.name + ": " + wrong);
      std::fprintf(stderr, "%s: %s computes another thing: %s\n", title.c_str(), who.name.c_str(),
                   wrong.c_str());
      continue;
    }
    rivals.push_back(calls);
    times.add(who.name, in_turn(op.sets, [calls](int i) { (*calls)[static_cast<std::size_t>(i)].run(); }));
  }
  if (op.own) times.add("own_" + op.own_name, in_turn(op.sets, op.own));

  // Last, because they overwrite what the others read: with zeros in a set of their own where that is cheap.
  const rows_operation scratch = make_operation(operation, type, where);
  for (const bool streaming : {false, true}) {
    auto loops = std::make_shared<std::vector<std::function<void()>>>();
    for (int i = 0; i < scratch.sets; ++i) loops->push_back(stream_loop(scratch.streams(i), streaming));
    times.add(streaming ? "stream_nt" : "stream",
              in_turn(scratch.sets, [loops](int i) { (*loops)[static_cast<std::size_t>(i)](); }));
  }

  for (auto _ : state) times.measure();
  state.counters["GB/s"] = bytes_of(op.streams(0)) / times.median(0) * 1e-9;
  if (op.flop > 0) state.counters["GFLOP/s"] = op.flop / times.median(0) * 1e-9;
  report(state, times, remarks);
}

bool quick_case(const std::string& operation, placement where) {
  for (const char* name :
       {"softmax", "layernorm", "gelu", "gelu_backward", "dropout_residual_layernorm", "attention", "adamw"})
    if (operation == name) return where == placement::reused;
  return false;
}

}  // namespace

void register_rows() {
  const std::string level = einkorn::name(einkorn::active_isa());
  for (const std::string& operation : operation_names())
    for (const dtype type : {dtype::f32, dtype::bf16})
      for (const placement where : {placement::reused, placement::rotating, placement::cache}) {
        if (!exists(operation, type, where)) continue;
        if (settings().quick && !quick_case(operation, where)) continue;
        const std::string title = operation + "/" + einkorn::name(type) + "/" + level + "/" + name(where) +
                                  "/threads:" + std::to_string(settings().threads);
        benchmark::RegisterBenchmark(
            title.c_str(), [=](benchmark::State& state) { run(state, title, operation, type, where); })
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
      }
}

}  // namespace bench
