// What the kernel tests share: levels to run on, buffers that end at guard pages, executors of 1, 2, 3 and 7
// threads, numbers to fill with, and the comparison that NaN fails.
#pragma once

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

#include <einkorn/einkorn.hpp>

namespace test {

using einkorn::index;

/// What einkorn::error says, or "no error".
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const einkorn::error& e) {
    return e.what();
  }
  return "no error";
}

/// EINKORN_TEST_QUICK=1: a bounded part, for emulators and sanitizers.
inline bool quick() {
  const char* value = std::getenv("EINKORN_TEST_QUICK");
  return value != nullptr && *value != '\0' && std::string_view(value) != "0";
}

/// The levels that this machine can be forced to. What is skipped is named and counted; EINKORN_TEST_REQUIRE
/// (names separated by commas) makes a skip a failure. EINKORN_ISA restricts the test to that one level.
/// amx runs only on hardware that has it, or while testing/amx_emulator.hpp is in scope.
inline std::vector<einkorn::isa> levels_to_test() {
  const char* only = std::getenv("EINKORN_ISA");
  const char* wanted = std::getenv("EINKORN_TEST_REQUIRE");
  const std::string required = "," + std::string(wanted != nullptr ? wanted : "") + ",";
  std::vector<einkorn::isa> levels;
  std::string skipped;
  int count = 0;
  for (int i = 0; i < einkorn::isa_count; ++i) {
    const auto level = static_cast<einkorn::isa>(i);
    if (only != nullptr && *only != '\0' && std::string_view(only) != name(level)) continue;
    if (einkorn::isa_available(level)) {
      levels.push_back(level);
      continue;
    }
    skipped += std::string(" ") + name(level);
    ++count;
    CHECK_MESSAGE(required.find("," + std::string(name(level)) + ",") == std::string::npos,
                  "required level is not available: ", name(level));
  }
  static bool told = false;
  if (count > 0 && !told) MESSAGE("skipped ", count, " of ", einkorn::isa_count, " levels:", skipped);
  told = true;
  REQUIRE_MESSAGE(!levels.empty(), "no level was tested");
  return levels;
}

/// Forces a level for a scope, and checks that it is the one that runs.
class forced_level {
 public:
  explicit forced_level(einkorn::isa level) {
    einkorn::force_isa(level);
    REQUIRE(einkorn::active_isa() == level);
  }
  ~forced_level() { einkorn::reset_isa(); }
  forced_level(const forced_level&) = delete;
  forced_level& operator=(const forced_level&) = delete;
};

/// body(level) with each level forced.
template <class Body>
void on_each_level(const Body& body) {
  for (const einkorn::isa level : levels_to_test()) {
    const forced_level forced(level);
    INFO("level ", name(level));
    body(level);
  }
}

/// count elements that end at a page that nobody may touch: reading or writing beyond them is a SIGSEGV.
/// Before them stand at least 64 guard bytes, which intact() checks. Filled with bytes of all ones: NaN in
/// every float type.
template <class T>
class guarded_buffer {
 public:
  guarded_buffer() : guarded_buffer(0) {}
  /// slack: elements left free before the guard page, so that the start can be misaligned at will.
  explicit guarded_buffer(index count, index slack = 0) : count_(count), slack_(slack) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t used = static_cast<std::size_t>(count + slack) * sizeof(T) + guard;
    mapped_ = (used + page - 1) / page * page + page;
    void* const memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    base_ = static_cast<unsigned char*>(memory);
    REQUIRE(mprotect(base_ + mapped_ - page, page, PROT_NONE) == 0);
    end_ = base_ + mapped_ - page;
    std::memset(base_, 0xff, mapped_ - page);
    data_ = reinterpret_cast<T*>(end_) - (count + slack);
  }
  ~guarded_buffer() {
    if (base_ != nullptr) munmap(base_, mapped_);
  }
  guarded_buffer(guarded_buffer&& other) noexcept { *this = std::move(other); }
  guarded_buffer& operator=(guarded_buffer&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(end_, other.end_);
    std::swap(data_, other.data_);
    std::swap(mapped_, other.mapped_);
    std::swap(count_, other.count_);
    std::swap(slack_, other.slack_);
    return *this;
  }

  T* data() const { return data_; }
  index size() const { return count_; }
  T& operator[](index i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + count_; }
  void fill_with_nan() {
    std::memset(static_cast<void*>(data_), 0xff, static_cast<std::size_t>(count_) * sizeof(T));
  }
  /// Nothing before the first or in the slack after the last element was written.
  bool intact() const {
    const auto* const first = reinterpret_cast<const unsigned char*>(data_);
    for (const unsigned char* p = base_; p < first; ++p)
      if (*p != 0xff) return false;
    for (const auto* p = reinterpret_cast<const unsigned char*>(data_ + count_); p < end_; ++p)
      if (*p != 0xff) return false;
    return true;
  }

 private:
  static constexpr std::size_t guard = 64;
  unsigned char *base_ = nullptr, *end_ = nullptr;
  T* data_ = nullptr;
  std::size_t mapped_ = 0;
  index count_ = 0, slack_ = 0;
};

/// A rows x cols matrix with `padding` elements after each row (NaN, and not to be touched) in a guarded
/// buffer. The last row ends at the guard page: it has no padding.
template <class T>
struct guarded_matrix {
  guarded_buffer<T> memory;
  index rows = 0, cols = 0, stride = 0;

  guarded_matrix() = default;
  guarded_matrix(index rows_, index cols_, index padding = 0, index slack = 0)
      : memory(rows_ > 0 ? (rows_ - 1) * (cols_ + padding) + cols_ : 0, slack),
        rows(rows_),
        cols(cols_),
        stride(cols_ + padding) {}
  einkorn::matrix_view<T> view() const { return {memory.data(), rows, cols, stride}; }
  einkorn::matrix_view<const T> const_view() const { return {memory.data(), rows, cols, stride}; }
  /// The buffer's surroundings and the padding between rows are as they were.
  bool intact() const {
    if (!memory.intact()) return false;
    for (index row = 0; row + 1 < rows; ++row) {
      const auto* const bytes = reinterpret_cast<const unsigned char*>(memory.data() + row * stride + cols);
      for (std::size_t i = 0; i < static_cast<std::size_t>(stride - cols) * sizeof(T); ++i)
        if (bytes[i] != 0xff) return false;
    }
    return true;
  }
};

/// SplitMix64: the same numbers everywhere.
class random_numbers {
 public:
  explicit random_numbers(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// Uniform in [-1, 1).
  float real() { return static_cast<float>(static_cast<double>(bits() >> 11) * 0x1p-52 - 1.0); }
  index below(index n) { return static_cast<index>(bits() % static_cast<std::uint64_t>(n)); }

 private:
  std::uint64_t state_;
};

/// Uniform in [-scale, scale) for floats; over the whole range for integers.
template <class T>
T random_value(random_numbers& random, float scale = 1) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(random.bits());
  } else {
    return T(scale * random.real());
  }
}
template <class T>
void fill_random(const einkorn::matrix_view<T>& m, random_numbers& random, float scale = 1) {
  const index height = m.transposed ? m.cols : m.rows, width = m.transposed ? m.rows : m.cols;
  for (index row = 0; row < height; ++row)
    for (index col = 0; col < width; ++col) m.data[row * m.stride + col] = random_value<T>(random, scale);
}
template <class T>
void fill_random(const guarded_buffer<T>& b, random_numbers& random, float scale = 1) {
  for (T& x : b) x = random_value<T>(random, scale);
}

/// Half an ulp of the type, relative; and what the smallest values may lose.
template <class T>
inline constexpr double eps_of = std::is_same_v<T, einkorn::bf16>   ? 0x1p-8
                                 : std::is_same_v<T, einkorn::fp16> ? 0x1p-11
                                                                    : 0x1p-24;
template <class T>
inline constexpr double tiny_of = std::is_same_v<T, einkorn::fp16> ? 0x1p-25 : 0x1p-126;

/// The comparison of every test: NaN fails it; equal infinities pass. `worst` keeps the largest error /
/// bound.
inline bool within(double actual, double expected, double bound, double* worst = nullptr) {
  if (std::isinf(expected)) return actual == expected;
  const double error = std::abs(actual - expected);
  if (worst != nullptr && error > 0 && !(error / bound <= *worst)) *worst = error / bound;
  return error <= bound;
}

/// An executor with threads of its own that start for each call. Tasks go to whoever is free.
class thread_executor {
 public:
  explicit thread_executor(int threads) : threads_(threads) {}
  operator einkorn::executor() { return {this, &run, threads_}; }
  index tasks_run() const { return tasks_run_; }

 private:
  static void run(void* context, index tasks, void (*body)(void*, index), void* arg) {
    auto& self = *static_cast<thread_executor*>(context);
    std::atomic<index> next{0};
    const auto work = [&] {
      for (index task; (task = next.fetch_add(1)) < tasks;) body(arg, task);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < self.threads_; ++i) others.emplace_back(work);
    work();
    for (std::thread& thread : others) thread.join();
    self.tasks_run_ += tasks;
  }
  int threads_;
  index tasks_run_ = 0;
};

/// body(executor) for 1, 2, 3 and 7 threads: what it computes must be the same bits each time.
template <class Body>
void with_thread_counts(const Body& body) {
  for (const int threads : {1, 2, 3, 7}) {
    thread_executor exec(threads);
    INFO("threads ", threads);
    body(static_cast<einkorn::executor>(exec));
  }
}

template <class T>
bool same_bits(const guarded_buffer<T>& a, const guarded_buffer<T>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

}  // namespace test
