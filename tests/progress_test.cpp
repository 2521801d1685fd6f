#include "progress.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <sstream>
#include <vector>

#include "scratch_folder.hpp"

using namespace bert_qa;

namespace {

/// Characters that a terminal shows: without escape sequences, a code point counting one.
std::size_t width_of(const std::string& text) {
  std::size_t width = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      while (i < text.size() && !(text[i] >= 'A' && text[i] <= 'z' && text[i] != '[')) ++i;
    } else if (text[i] != '\r' && text[i] != '\n' && (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) {
      ++width;
    }
  }
  return width;
}

std::vector<std::string> lines_of(const std::string& text, char end) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line, end);) lines.push_back(line);
  return lines;
}

struct stage {
  std::ostringstream out;
  double now = 1000;
  screen on;
  progress bar(std::int64_t total, const char* name = "training", std::int64_t done = 0) {
    return progress(name, total, done, out, on, [this] { return now; });
  }
};

progress_values all_values() {
  progress_values values;
  values.loss = 1.2345;
  values.learning_rate = 2.21e-5;
  values.samples_per_second = 45.34;
  values.utilization = 0.382;
  return values;
}

}  // namespace

TEST_CASE("times") {
  CHECK(clock_text(0) == "0:00");
  CHECK(clock_text(7.9) == "0:07");
  CHECK(clock_text(60) == "1:00");
  CHECK(clock_text(3599) == "59:59");
  CHECK(clock_text(3723) == "1:02:03");
  CHECK(clock_text(-1) == "0:00");
  CHECK(clock_text(1.0 / 0.0) == "0:00");
}

TEST_CASE("not a terminal: one plain line every tenth") {
  stage s;
  {
    progress bar = s.bar(1334);
    for (int step = 1; step <= 1334; ++step) {
      s.now += 0.5;
      bar.update(step, all_values());
    }
  }
  const auto lines = lines_of(s.out.str(), '\n');
  REQUIRE(lines.size() == 10);
  CHECK(lines[0] == "training  10%  134/1334  loss 1.234  1:07<10:00  45.3 samples/s  MFU 38%  lr 2.2e-05");
  CHECK(contains(lines[4], " 50%  667/1334  "));
  CHECK(contains(lines[4], "5:33<5:33"));
  CHECK(contains(lines[9], "100%  1334/1334  "));
  CHECK(contains(lines[9], "  11:07  "));
  CHECK(!contains(s.out.str(), "\x1b"));
  CHECK(!contains(s.out.str(), "\r"));
}

TEST_CASE("fewer steps than tenths, and steps that jump") {
  stage s;
  {
    progress bar = s.bar(3, "evaluating");
    for (int step = 1; step <= 3; ++step) bar.update(step);
  }
  CHECK(lines_of(s.out.str(), '\n').size() == 3);
  s.out.str("");
  {
    progress bar = s.bar(100);
    for (const int step : {5, 35, 36, 39, 100}) bar.update(step);
  }
  CHECK(lines_of(s.out.str(), '\n').size() == 2);
  s.out.str("");
  { progress bar = s.bar(0); }
  CHECK(s.out.str().empty());
}

TEST_CASE("a run that goes on: the time left is that of its own steps") {
  stage s;
  {
    progress bar = s.bar(1000, "training", 550);
    for (int step = 551; step <= 700; ++step) {
      s.now += 1;
      bar.update(step);
    }
  }
  const auto lines = lines_of(s.out.str(), '\n');
  REQUIRE(lines.size() == 2);  // 50 % were there before
  CHECK(lines[0] == "training  60%  600/1000  0:50<6:40");
  CHECK(lines[1] == "training  70%  700/1000  2:30<5:00");
}

TEST_CASE("a terminal: one line, redrawn at most ten times a second") {
  stage s;
  s.on = {true, false, true, 100};
  {
    progress bar = s.bar(100'000);
    for (int step = 1; step <= 100'000; ++step) {
      s.now += 2e-5;  // two seconds in all
      bar.update(step, all_values());
    }
  }
  const std::string text = s.out.str();
  const auto draws = lines_of(text, '\r');
  CHECK(draws.size() >= 19);
  CHECK(draws.size() <= 24);
  CHECK(text.ends_with("\n"));
  CHECK(lines_of(text, '\n').size() == 1);
  // What stays on the screen is the end, not the last state that happened to be drawn.
  CHECK(contains(draws.back(), "100000/100000"));
  CHECK(contains(draws.back(), "━"));
  CHECK(!contains(draws.back(), "─"));
  CHECK(contains(draws.back(), "loss 1.234"));
}

TEST_CASE("every width: never more than fits, the numbers go from the right") {
  const std::string shown[] = {"700/1334",       "loss 1.234", "1:40<1:30",
                               "45.3 samples/s", "MFU 38%",    "lr 2.2e-05"};
  for (int columns = 1; columns <= 200; ++columns) {
    for (const bool color : {false, true}) {
      stage s;
      s.on = {true, color, true, columns};
      {
        progress bar = s.bar(1334);
        s.now += 100;
        bar.update(700, all_values());
      }
      const auto draws = lines_of(s.out.str(), '\r');
      REQUIRE(draws.size() >= 2);
      for (const std::string& draw : draws)
        CHECK(width_of(draw) <= static_cast<std::size_t>(std::max(columns - 1, 1)));
      bool gone = false;
      for (const std::string& part : shown) {
        const bool there = contains(draws[1], part);
        CHECK(!(there && gone && columns > 20));
        gone = gone || !there;
      }
      CHECK(contains(draws[1], "━") == (columns >= 60));
      CHECK(contains(s.out.str(), "\x1b[32m") == (color && columns >= 60));
      if (columns >= 82) CHECK(!gone);
    }
  }
}

TEST_CASE("the bar is as long as the part that is done") {
  stage s;
  s.on = {true, false, false, 200};
  {
    progress bar = s.bar(30);
    for (const int step : {1, 15, 30}) {
      s.now += 1;
      bar.update(step);
    }
  }
  const auto draws = lines_of(s.out.str(), '\r');
  REQUIRE(draws.size() == 5);
  CHECK(draws[1] == "training #----------------------------- 1/30 0:01<0:29\x1b[K");
  CHECK(draws[2] == "training ###############--------------- 15/30 0:02<0:02\x1b[K");
  CHECK(draws[3] == "training ############################## 30/30 0:03\x1b[K");
  CHECK(draws[4] == draws[3] + "\n");
}

TEST_CASE("lines above the bar") {
  stage s;
  s.on = {true, false, false, 80};
  {
    progress bar = s.bar(10);
    bar.print("before");
    bar.update(5);
    bar.print("between");
    bar.finish();
    bar.update(6);
    bar.finish();
  }
  const std::string text = s.out.str();
  CHECK(text.rfind("before\n\r", 0) == 0);
  CHECK(contains(text, "\r\x1b[Kbetween\n\rtraining "));
  CHECK(contains(text, "5/10"));
  CHECK(!contains(text, "6/10"));
  CHECK(lines_of(text, '\n').size() == 3);
}

TEST_CASE("the environment decides what a terminal can do") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::setenv("COLUMNS", "77", 1);
  ::setenv("LC_ALL", "de_DE.UTF-8", 1);
  const screen pipe = screen_of(ends[1]);
  CHECK(!pipe.is_terminal);
  CHECK(!pipe.color);
  CHECK(pipe.unicode);
  CHECK(pipe.columns == 77);
  ::setenv("LC_ALL", "C", 1);
  CHECK(!screen_of(ends[1]).unicode);
  ::close(ends[0]);
  ::close(ends[1]);

  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  if (terminal < 0) {
    MESSAGE("skipped 1: no pseudo terminal here");
    return;
  }
  ::setenv("TERM", "xterm", 1);
  ::unsetenv("NO_COLOR");
  CHECK(screen_of(terminal).is_terminal);
  CHECK(screen_of(terminal).color);
  ::setenv("NO_COLOR", "1", 1);
  CHECK(screen_of(terminal).is_terminal);
  CHECK(!screen_of(terminal).color);
  ::setenv("TERM", "dumb", 1);
  CHECK(!screen_of(terminal).is_terminal);
  ::close(terminal);
}
