/// How work is spread over threads. The library starts no threads of its own.
#pragma once

#include "types.hpp"

EINKORN_BEGIN_NAMESPACE

/// Somebody who runs tasks: a thread pool, OpenMP, TBB. Results never depend on it: the same bits come out
/// for any number of threads.
struct executor {
  void* context = nullptr;
  /// Calls body(arg, i) exactly once for each i in [0, tasks), on any threads in any order, and returns when
  /// all have finished. Null: the calling thread runs them all. Bodies do not throw.
  void (*run)(void* context, index tasks, void (*body)(void* arg, index task), void* arg) = nullptr;
  /// How many tasks can run at the same time; a hint for how finely work is cut.
  int threads = 1;
};

/// Runs everything on the calling thread.
constexpr executor serial_executor() noexcept { return {}; }

namespace detail {
#if !defined(EINKORN_HEADER_ONLY)
/// OpenMP where the library was built with it, else serial: targets/dispatch.cpp.
executor initial_executor() noexcept;
#else
inline executor initial_executor() noexcept { return serial_executor(); }
#endif
inline executor& current_executor() noexcept {
  static executor current = initial_executor();
  return current;
}
}  // namespace detail

/// What operations use that are not given an executor of their own: at first OpenMP with all its threads
/// where the library was built with it, else serial (header_only: serial; see openmp.hpp).
inline executor default_executor() noexcept { return detail::current_executor(); }

/// Not to be called while another thread is inside the library.
inline void set_default_executor(const executor& exec) noexcept { detail::current_executor() = exec; }

EINKORN_END_NAMESPACE
