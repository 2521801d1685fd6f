#include "contest.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

#include "machine.hpp"

namespace bench {
namespace {

using clock = std::chrono::steady_clock;

double timed(const std::function<void()>& call, int calls) {
  const auto start = clock::now();
  for (int i = 0; i < calls; ++i) call();
  return std::chrono::duration<double>(clock::now() - start).count() / calls;
}

bool is_limit(const std::string& name) { return name.rfind("peak", 0) == 0 || name.rfind("stream", 0) == 0; }

/// Threads of another library's pool spin for a while after their work; they are given time to sleep, so
/// that they do not take a core from whoever comes next.
void let_others_sleep() {
  if (settings().threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

/// Waits while other programs have the cores: until the loop on registers is about as fast as it ever was, a
/// second at most, and a minute in all.
void wait_for_cores() {
  static const register_loop loop = register_peak(einkorn::active_isa(), einkorn::dtype::f32);
  static double fastest = 1e30;
  static int patience = 600;
  if (!loop.run) return;
  for (int tries = 0; tries < 10; ++tries) {
    double time = 1e30;
    for (int i = 0; i < 5; ++i) time = std::min(time, timed(loop.run, 1));
    fastest = std::min(fastest, time);
    if (time < 1.15 * fastest || patience == 0) return;
    --patience;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace

void contest::add(std::string name, std::function<void()> call) {
  contestants_.push_back({std::move(name), std::move(call), 1, 0, false, {}});
}

void contest::measure() {
  constexpr double block = 200e-6;                         // the shortest time that is measured at once
  const int most = 101, least = settings().quick ? 5 : 7;  // rounds
  wait_for_cores();
  double fastest = 1e30, all = 0;
  std::vector<double> once;
  for (contestant& c : contestants_) {
    let_others_sleep();
    c.call();
    double time = timed(c.call, 1);
    if (time < block) time = timed(c.call, static_cast<int>(block / std::max(time, 1e-8)) + 1);
    once.push_back(time);
    if (!is_limit(c.name)) fastest = std::min(fastest, time);
    c.calls = std::max(1, static_cast<int>(std::ceil(block / time)));
    c.warm = time < 2e-3;
  }
  const auto has_all_rounds = [&](std::size_t i) {
    return is_limit(contestants_[i].name) || once[i] <= 4 * fastest;
  };
  for (std::size_t i = 0; i < contestants_.size(); ++i)
    if (has_all_rounds(i)) all += std::max(once[i], block) + (once[i] < 2e-3 ? once[i] : 0);
  const double budget = settings().seconds * static_cast<double>(contestants_.size());
  const int rounds = std::clamp(static_cast<int>(budget / all), least, most);
  for (std::size_t i = 0; i < contestants_.size(); ++i)
    contestants_[i].rounds = has_all_rounds(i) ? rounds : once[i] > 10 * fastest ? 1 : 3;

  for (int round = 0; round < rounds; ++round) {
    for (std::size_t k = 0; k < contestants_.size(); ++k) {
      const std::size_t turn = (k + static_cast<std::size_t>(round)) % contestants_.size();
      contestant& c = contestants_[round % 2 == 0 ? turn : contestants_.size() - 1 - turn];
      if (round >= c.rounds) continue;
      let_others_sleep();
      if (c.warm) c.call();
      c.seconds.push_back(timed(c.call, c.calls));
    }
  }
}

double contest::median(std::size_t i) const { return median_interval(contestants_[i].seconds).median; }
double contest::best(std::size_t i) const {
  return *std::min_element(contestants_[i].seconds.begin(), contestants_[i].seconds.end());
}

ratio contest::ratio_to(std::size_t other) const {
  const std::vector<double>&ours = contestants_[0].seconds, &theirs = contestants_[other].seconds;
  std::vector<double> pairs;
  for (std::size_t i = 0; i < std::min(ours.size(), theirs.size()); ++i) pairs.push_back(theirs[i] / ours[i]);
  return median_interval(std::move(pairs));
}

ratio median_interval(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  // The largest k for which fewer than k of n fair coins show heads with probability at most 2.5 %.
  double chance = std::pow(0.5, static_cast<double>(n)), sum = chance;
  std::size_t k = 0;
  while (sum <= 0.025 && k < n / 2) {
    ++k;
    chance *= static_cast<double>(n - k + 1) / static_cast<double>(k);
    sum += chance;
  }
  const std::size_t low = k > 0 ? k - 1 : 0;
  const double middle = n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
  return {middle, values[low], values[n - 1 - low]};
}

void report(benchmark::State& state, const contest& times, const std::string& remarks) {
  state.SetIterationTime(times.median(0));
  state.counters["best_us"] = times.best(0) * 1e6;
  std::string best_name;
  ratio best;
  for (std::size_t i = 1; i < times.size(); ++i) {
    const std::string& name = times.name(i);
    const ratio r = times.ratio_to(i);
    if (is_limit(name)) {
      state.counters["%" + name] = 100 * r.median;  // the limit's time for the same work over ours
      continue;
    }
    state.counters[name + "_us"] = times.median(i) * 1e6;
    state.counters[name + "_ratio"] = r.median;
    state.counters[name + "_low"] = r.low;
    state.counters[name + "_high"] = r.high;
    if (name.rfind("own_", 0) != 0 && (best_name.empty() || r.median < best.median)) {
      best_name = name;
      best = r;
    }
  }
  std::string label;
  if (!best_name.empty()) {
    state.counters["best_ratio"] = best.median;
    state.counters["best_low"] = best.low;
    state.counters["best_high"] = best.high;
    char text[128];
    std::snprintf(text, sizeof(text), "%.2f [%.2f, %.2f] x %s", best.median, best.low, best.high,
                  best_name.c_str());
    label = text;
  }
  state.SetLabel(label + (label.empty() || remarks.empty() ? "" : "; ") + remarks);
}

}  // namespace bench
