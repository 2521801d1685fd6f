// Several ways of doing one thing, timed in turn: round after round, in changing order, so that a neighbour's
// load or a change of clock hits all of them. What is compared are the pairs of one round.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <vector>

#include "settings.hpp"

namespace bench {

struct ratio {
  double median = 0, low = 0, high = 0;  ///< low, high: 95 % interval of the median, from order statistics
};

class contest {
 public:
  /// The first one added is ours.
  void add(std::string name, std::function<void()> call);
  void measure();

  std::size_t size() const { return contestants_.size(); }
  const std::string& name(std::size_t i) const { return contestants_[i].name; }
  double median(std::size_t i) const;  ///< seconds of one call
  double best(std::size_t i) const;
  /// Time of `other` divided by ours, round by round: above 1 we are ahead.
  ratio ratio_to(std::size_t other) const;

 private:
  struct contestant {
    std::string name;
    std::function<void()> call;
    int calls = 1;      // of one round: enough for the clock
    int rounds = 0;     // a hopelessly slow one gets few
    bool warm = false;  // an untimed call before each round's
    std::vector<double> seconds;
  };
  std::vector<contestant> contestants_;
};

/// The median of values and its 95 % interval; with fewer than six values the interval is all of them.
ratio median_interval(std::vector<double> values);

/// Medians, ratios and intervals as counters: NAME_ratio, NAME_low, NAME_high, NAME_us. Names that begin with
/// "peak" or "stream" are limits, not rivals: they appear as shares only. Sets the iteration's time; the
/// label says which rival is the best, with its ratio.
void report(benchmark::State& state, const contest& times, const std::string& remarks);

}  // namespace bench
