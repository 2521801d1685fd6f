/// The operations of gemm.hpp: the micro-kernel of the types, then the driver.
#pragma once

#include "gemm_amx.hpp"
#include "gemm_avx2.hpp"
#include "gemm_avx512.hpp"
#include "gemm_baseline.hpp"
#include "gemm_driver.hpp"

EINKORN_BEGIN_LEVEL

/// body(kernel) with the micro-kernel of the types of A and B.
template <class Args, class Body>
inline void gemm_with_kernel(dtype a, [[maybe_unused]] dtype b, [[maybe_unused]] const Args& g,
                             const Body& body) {
#if EINKORN_LEVEL_AT_LEAST_AMX
  if (a == dtype::u8) return body(gemm_u8_tiles());
  if (a == dtype::s8) return body(gemm_s8_tiles());
  if (a == dtype::bf16 && b == dtype::bf16) return body(gemm_bf16_tiles());
  if (a == dtype::fp16 && b == dtype::fp16 && g.machine.fp16_tiles) return body(gemm_fp16_tiles());
#else
  if (a == dtype::u8 || a == dtype::s8) return body(gemm_int8());
#if EINKORN_LEVEL_AT_LEAST_AVX512_BF16
  if (a == dtype::bf16 && b == dtype::bf16 && !g.machine.widen_bf16) return body(gemm_bf16());
#endif
#endif
  body(gemm_f32());  // narrow operands are widened while packing
}

inline void gemm(const detail::gemm_args& g) {
  if (g.batch == 0 || g.c.rows == 0 || g.c.cols == 0) return;
  gemm_with_kernel(g.a.type, g.b.type, g, [&](auto kernel) {
    const gemm_blocking<decltype(kernel)> blocking(g);
    gemm_driver<decltype(kernel)> driver(g, blocking, {g.a.data, g.b.data, g.c.data});
    const index bytes = blocking.scratch_bytes();
    if (blocking.simple && bytes == 0) return driver.run_simple(nullptr);
    alignas(64) char small[detail::gemm_small_scratch];
    char* const memory =
        bytes <= detail::gemm_small_scratch ? small : static_cast<char*>(g.scratch(g.scratch_context, bytes));
    driver.run(memory);
  });
}

/// What gemm_plan keeps: the blocking, and the function that goes on from there.
inline void gemm_prepare(const detail::gemm_prepare_args& p) {
  gemm_with_kernel(p.g->a.type, p.g->b.type, *p.g, [&](auto kernel) {
    using blocking = gemm_blocking<decltype(kernel)>;
    using driver = gemm_driver<decltype(kernel)>;
    static_assert(sizeof(blocking) <= sizeof p.out->blocking && std::is_trivially_copyable_v<blocking>);
    const blocking* const made = new (p.out->blocking) blocking(*p.g);
    p.out->scratch_bytes = made->scratch_bytes();
    if (made->simple && p.out->scratch_bytes == 0)
      p.out->run = [](const detail::gemm_prepared& prepared, const detail::gemm_args& g,
                      const detail::gemm_pointers& pointers, void*) {
        driver(g, *reinterpret_cast<const blocking*>(prepared.blocking), pointers).run_simple(nullptr);
      };
    else
      p.out->run = [](const detail::gemm_prepared& prepared, const detail::gemm_args& g,
                      const detail::gemm_pointers& pointers, void* memory) {
        alignas(64) char small[detail::gemm_small_scratch];
        driver(g, *reinterpret_cast<const blocking*>(prepared.blocking), pointers)
            .run(memory != nullptr ? static_cast<char*>(memory) : small);
      };
  });
}

inline void gemm_pack(const detail::gemm_pack_args& g) {
  gemm_with_kernel(g.a_type, g.b.type, g, [&](auto kernel) {
    using kernel_type = decltype(kernel);
    gemm_blocking<kernel_type> blocking;
    blocking.set_depth(g.b.rows);
    *g.bytes = blocking.packed_bytes(g.b.cols);
    if (g.out != nullptr)
      gemm_pack_panels(g.b, 0, blocking, 0, blocking.blocks, 0, g.b.cols, static_cast<char*>(g.out), g.exec);
  });
}

inline void gemm_pack_pair(const detail::gemm_pack_pair_args& g) {
  gemm_with_kernel(g.a_type, g.weight.type, g, [&](auto kernel) {
    using kernel_type = decltype(kernel);
    gemm_blocking<kernel_type> forward, backward;
    forward.set_depth(g.weight.cols);
    backward.set_depth(g.weight.rows);
    *g.forward_bytes = forward.packed_bytes(g.weight.rows);
    *g.backward_bytes = backward.packed_bytes(g.weight.cols);
    if (g.forward == nullptr) return;
    if constexpr (std::is_same_v<typename kernel_type::accumulator, float>)  // gemm.hpp checks
      gemm_pack_both(g.weight, forward, backward, static_cast<char*>(g.forward),
                     static_cast<char*>(g.backward), g.exec);
  });
}

EINKORN_END_LEVEL
