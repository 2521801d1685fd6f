// OpenMP's threads do not exist in the child of a fork.
#include <einkorn/gemm.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include "support.hpp"

namespace test {
using namespace einkorn;

// The first use of OpenMP is the program's own, so that the library learns of the fork by itself.
TEST_CASE("the child of a fork computes, serially") {
  const executor exec = default_executor();
  if (exec.run == nullptr) {
    MESSAGE("skipped 1: the default executor is serial");
    return;
  }
  int threads = 0;
#if defined(_OPENMP)
#pragma omp parallel num_threads(2) reduction(+ : threads)
#endif
  ++threads;
  CHECK(threads >= 1);
  guarded_matrix<float> a(128, 128), b(128, 128), c(128, 128);
  for (float& x : a.memory) x = 1;
  for (float& x : b.memory) x = 2;
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);  // waiting for threads that do not exist hangs
    gemm(a.const_view(), b.const_view(), c.view(), {}, exec);
    _exit(c.view()(127, 127) == 256 ? 0 : 1);
  }
  REQUIRE(child > 0);
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  gemm(a.const_view(), b.const_view(), c.view(), {}, exec);
  CHECK(c.view()(127, 127) == 256);
}

}  // namespace test
