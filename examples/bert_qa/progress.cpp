#include "progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <utility>
#include <vector>

namespace bert_qa {
namespace {

constexpr double redraw_seconds = 0.1;
constexpr std::size_t widest_bar = 30, narrowest_bar = 6;
constexpr std::size_t narrowest_line_with_bar = 60;

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

screen screen_of(int descriptor) {
  screen found;
  const std::string term = environment("TERM");
  found.is_terminal = ::isatty(descriptor) == 1 && !term.empty() && term != "dumb";
  found.color = found.is_terminal && environment("NO_COLOR").empty();  // https://no-color.org
  std::string locale;
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (locale.empty()) locale = environment(name);
  }
  for (const char* name : {"UTF-8", "utf-8", "UTF8", "utf8"}) {
    found.unicode = found.unicode || locale.find(name) != std::string::npos;
  }
  winsize size{};
  if (found.is_terminal && ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    found.columns = size.ws_col;
  } else if (const int columns = std::atoi(environment("COLUMNS").c_str()); columns > 0) {
    found.columns = columns;
  }
  return found;
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<long long>(std::isfinite(seconds) ? std::clamp(seconds, 0.0, 3.6e9) : 0);
  char text[32];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
  }
  return text;
}

progress::progress(std::string description, std::int64_t total, std::int64_t done)
    : progress(std::move(description), total, done, std::cerr, screen_of(STDERR_FILENO), steady_seconds) {}

progress::progress(std::string description, std::int64_t total, std::int64_t done, std::ostream& out,
                   const screen& on, std::function<double()> clock)
    : description_(std::move(description)),
      total_(std::max<std::int64_t>(total, 0)),
      first_(std::clamp<std::int64_t>(done, 0, total_)),
      step_(first_),
      tenths_(tenths()),
      out_(out),
      screen_(on),
      clock_(std::move(clock)),
      start_(clock_()),
      last_drawn_(start_ - 1) {}

progress::~progress() {
  try {
    finish();
  } catch (...) {  // a stream that was told to throw: there is no one left to tell
  }
}

void progress::update(std::int64_t step, const progress_values& values) {
  if (finished_) return;
  step_ = std::clamp<std::int64_t>(step, 0, total_);
  values_ = values;
  if (screen_.is_terminal) {
    const double now = clock_();
    if (now - last_drawn_ < redraw_seconds) return;
    last_drawn_ = now;
    draw();
  } else if (tenths() > tenths_) {
    tenths_ = tenths();
    out_ << line(false) << std::endl;
  }
}

void progress::print(std::string_view text) {
  if (on_screen_) out_ << "\r\x1b[K";
  out_ << text << '\n';
  if (on_screen_) draw();
  out_.flush();
}

void progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (!screen_.is_terminal) return;
  draw();
  out_ << std::endl;
}

void progress::draw() {
  on_screen_ = true;
  out_ << '\r' << line(true) << "\x1b[K" << std::flush;
}

std::string progress::line(bool with_bar) const {
  const double elapsed = std::max(0.0, clock_() - start_);
  const double done = total_ > 0 ? static_cast<double>(step_) / static_cast<double>(total_) : 1.0;
  std::string time = clock_text(elapsed);
  if (step_ > first_ && step_ < total_) {
    const double pace = elapsed / static_cast<double>(step_ - first_);
    time += '<' + clock_text(pace * static_cast<double>(total_ - step_));
  }
  std::vector<std::string> parts = {std::to_string(step_) + '/' + std::to_string(total_)};
  if (values_.loss) parts.push_back("loss " + formatted("%.3f", *values_.loss));
  parts.push_back(std::move(time));
  if (values_.samples_per_second) parts.push_back(formatted("%.1f samples/s", *values_.samples_per_second));
  if (values_.utilization) parts.push_back("MFU " + formatted("%.0f%%", 100 * *values_.utilization));
  if (values_.learning_rate) parts.push_back("lr " + formatted("%.1e", *values_.learning_rate));

  if (!with_bar) {
    std::string text = description_ + formatted(" %3.0f%%", std::floor(100 * done + 1e-9));
    for (const std::string& part : parts) text += "  " + part;
    return text;
  }

  // A terminal that wraps would scroll at every redraw: everything must fit into one column less than it has.
  const auto room = static_cast<std::size_t>(std::max(screen_.columns - 1, 1));
  const bool bar_fits = room + 1 >= narrowest_line_with_bar;
  const std::size_t text_room = room - (bar_fits ? narrowest_bar + 1 : 0);
  std::string text;
  for (const std::string& part : parts) {
    if (description_.size() + text.size() + 1 + part.size() > text_room) break;
    (text += ' ') += part;
  }
  const std::size_t used = description_.size() + text.size();
  if (!bar_fits || used > text_room) return (description_ + text).substr(0, room);
  const std::size_t cells = std::min(widest_bar, room - 1 - used);
  const auto full = static_cast<std::size_t>(std::lround(done * static_cast<double>(cells)));
  std::string bar;
  if (screen_.color) bar += "\x1b[32m";
  for (std::size_t i = 0; i < full; ++i) bar += screen_.unicode ? "━" : "#";
  if (screen_.color) bar += "\x1b[90m";
  for (std::size_t i = full; i < cells; ++i) bar += screen_.unicode ? (screen_.color ? "━" : "─") : "-";
  if (screen_.color) bar += "\x1b[0m";
  return description_ + " " + bar + text;
}

}  // namespace bert_qa
