#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>

namespace bert_qa {

/// What progress is drawn on.
struct screen {
  bool is_terminal = false;  ///< a line that is redrawn; else one plain line every tenth of the way
  bool color = false;
  bool unicode = false;
  int columns = 100;
};

/// The screen behind a descriptor, as the environment says: NO_COLOR, TERM, COLUMNS, LC_ALL, LC_CTYPE, LANG.
screen screen_of(int descriptor);

/// What a step measured; what is not set is not shown.
struct progress_values {
  std::optional<double> loss, learning_rate, samples_per_second;
  std::optional<double> utilization;  ///< model FLOPs utilization, 1 = the peak
};

/// One line on stderr that says how far a run is:
///
///     training ━━━━━━──────────────── 350/1334 loss 1.234 1:12<3:23 45.3 samples/s MFU 38% lr 2.2e-05
///
/// with the time since the start and the time left. On a narrow terminal the bar shrinks, the numbers go from
/// the right, and below 60 columns the bar goes. At most ten redraws a second: update() may be called for
/// every step.
class progress {
 public:
  /// The first `done` steps are of an earlier run: they took no time here.
  progress(std::string description, std::int64_t total, std::int64_t done = 0);
  /// For tests: another place, and a clock in seconds.
  progress(std::string description, std::int64_t total, std::int64_t done, std::ostream& out,
           const screen& on, std::function<double()> clock);
  ~progress();  ///< ends the line
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;

  /// After `step` of `total` steps are done.
  void update(std::int64_t step, const progress_values& values = {});
  /// A line of text above the bar.
  void print(std::string_view line);
  /// Draws the last state and ends the line; further calls do nothing.
  void finish();

 private:
  void draw();
  std::string line(bool with_bar) const;
  std::int64_t tenths() const { return total_ > 0 ? step_ * 10 / total_ : 0; }

  std::string description_;
  std::int64_t total_, first_, step_, tenths_;
  progress_values values_;
  std::ostream& out_;
  screen screen_;
  std::function<double()> clock_;
  double start_, last_drawn_;
  bool on_screen_ = false, finished_ = false;
};

/// 7 -> 0:07, 3723 -> 1:02:03.
std::string clock_text(double seconds);

}  // namespace bert_qa
