/// This machine, as GEMM sees it.
#pragma once

#include "../isa.hpp"
#include "gemm_args.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {

/// AMX-FP16 came a generation after AMX; without it fp16 is widened.
inline bool has_fp16_tiles() {
  const isa_state& s = state();
  return s.amx_emulated.load(std::memory_order_relaxed) || s.probe.amx_fp16();
}

/// On Intel vdpbf16ps takes two cycles (measured on Sapphire Rapids): 16 products a cycle, where two FMA of
/// f32 make 32. There the avx512_bf16 level widens bf16 while packing; on AMD, where Zen 5 issues two
/// vdpbf16ps a cycle, it uses them. Tests set it to cover both.
inline bool& widens_bf16() {
  static bool value = state().probe.brand.find("Intel") != std::string::npos;
  return value;
}

inline gemm_machine this_machine() {
  const cache_sizes sizes = caches();
  return {sizes.l1, sizes.l2, sizes.l3, has_fp16_tiles(), widens_bf16()};
}

}  // namespace detail
EINKORN_END_NAMESPACE
