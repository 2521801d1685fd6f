// A stranger's kernel and its caller: einkorn_add_kernels() compiles this file once more for each ISA level.
#if defined(EINKORN_TARGET)
#include <einkorn/kernels/simd.hpp>

EINKORN_BEGIN_LEVEL
int lanes() { return vf_size; }
EINKORN_END_LEVEL

#else
#include <cstdio>
#include <einkorn/config.hpp>

#define DECLARE(level) \
  namespace level {    \
  int lanes();         \
  }
EINKORN_BEGIN_NAMESPACE
DECLARE(level_baseline)
DECLARE(level_avx2)
DECLARE(level_avx512_vnni)
DECLARE(level_avx512_bf16)
DECLARE(level_amx)
EINKORN_END_NAMESPACE

int main() {
  using namespace einkorn;
  std::printf("%d %d %d %d %d lanes\n", level_baseline::lanes(), level_avx2::lanes(),
              level_avx512_vnni::lanes(), level_avx512_bf16::lanes(), level_amx::lanes());
}
#endif
