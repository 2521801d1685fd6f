/// The OpenMP executor, for translation units that are compiled with -fopenmp.
///
/// With einkorn::einkorn it is the default already. With einkorn::header_only:
///   einkorn::set_default_executor(einkorn::openmp_executor());
/// After fork() the child runs serially: libgomp's threads do not exist there, and waiting for them hangs.
#pragma once

#if !defined(_OPENMP)
#error "einkorn/openmp.hpp needs -fopenmp"
#endif

#include <omp.h>
#include <pthread.h>

#include "executor.hpp"

EINKORN_BEGIN_NAMESPACE

namespace detail {
inline bool& is_forked_child() noexcept {
  static bool forked = false;
  return forked;
}

/// At load time: the program may have started libgomp's threads, and forked, before it calls the library.
inline const int fork_handler = pthread_atfork(nullptr, nullptr, [] { is_forked_child() = true; });

inline void openmp_run(void* context, index tasks, void (*body)(void*, index), void* arg) {
  const auto wanted = static_cast<index>(reinterpret_cast<std::intptr_t>(context));
  const int threads = static_cast<int>(tasks < wanted ? tasks : wanted);
  if (threads <= 1 || is_forked_child()) {
    for (index task = 0; task < tasks; ++task) body(arg, task);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (index task = 0; task < tasks; ++task) body(arg, task);
}
}  // namespace detail

/// threads == 0: omp_get_max_threads().
inline executor openmp_executor(int threads = 0) noexcept {
  if (threads <= 0) threads = omp_get_max_threads();
  return {reinterpret_cast<void*>(static_cast<std::intptr_t>(threads)), &detail::openmp_run, threads};
}

EINKORN_END_NAMESPACE
