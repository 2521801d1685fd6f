/// Runs the tasks of a kernel on an executor, each with the default floating-point environment.
#pragma once

#include <immintrin.h>

#include "../detail/level.hpp"
#include "../executor.hpp"

EINKORN_BEGIN_LEVEL

/// A caller's flush-to-zero or rounding mode reaches only some threads, which would make results depend on
/// their number: every task runs with the default MXCSR and leaves what it found.
class default_mxcsr {
 public:
  default_mxcsr() noexcept : saved_(_mm_getcsr()) {
    if ((saved_ & ~status_flags) != power_on) _mm_setcsr(power_on);
  }
  ~default_mxcsr() {
    if ((saved_ & ~status_flags) != power_on) _mm_setcsr(saved_);
  }
  default_mxcsr(const default_mxcsr&) = delete;
  default_mxcsr& operator=(const default_mxcsr&) = delete;

 private:
  static constexpr unsigned status_flags = 0x3f, power_on = 0x1f80;
  unsigned saved_;
};

/// body(i) once for each i in [0, tasks). What a task computes may depend on i only.
template <class Body>
inline void parallel_for(const executor& exec, index tasks, const Body& body) {
  if (tasks <= 1 || exec.run == nullptr) {
    const default_mxcsr environment;
    for (index task = 0; task < tasks; ++task) body(task);
    return;
  }
  exec.run(
      exec.context, tasks,
      [](void* arg, index task) {
        const default_mxcsr environment;
        (*static_cast<const Body*>(arg))(task);
      },
      const_cast<Body*>(&body));
}

EINKORN_END_LEVEL
