// The one object without ISA flags: which levels were compiled in, and the default executor.
// EINKORN_COMPILED_<level>=1 is defined for each level whose kernels.cpp is linked beside it.
#include "../detail/kernel_table.hpp"
#include "../executor.hpp"
#if defined(_OPENMP)
#include "../openmp.hpp"
#endif

EINKORN_BEGIN_NAMESPACE

namespace level_baseline {
extern const detail::kernel_table table;
}
namespace level_avx2 {
extern const detail::kernel_table table;
}
namespace level_avx512_vnni {
extern const detail::kernel_table table;
}
namespace level_avx512_bf16 {
extern const detail::kernel_table table;
}
namespace level_amx {
extern const detail::kernel_table table;
}

namespace detail {

const kernel_table* compiled_kernels(isa level) noexcept {
  switch (level) {
#if EINKORN_COMPILED_baseline
    case isa::baseline:
      return &level_baseline::table;
#endif
#if EINKORN_COMPILED_avx2
    case isa::avx2:
      return &level_avx2::table;
#endif
#if EINKORN_COMPILED_avx512_vnni
    case isa::avx512_vnni:
      return &level_avx512_vnni::table;
#endif
#if EINKORN_COMPILED_avx512_bf16
    case isa::avx512_bf16:
      return &level_avx512_bf16::table;
#endif
#if EINKORN_COMPILED_amx
    case isa::amx:
      return &level_amx::table;
#endif
    default:
      return nullptr;
  }
}

executor initial_executor() noexcept {
#if defined(_OPENMP)
  return openmp_executor();
#else
  return serial_executor();
#endif
}

}  // namespace detail

EINKORN_END_NAMESPACE
