/// What gemm.hpp hands to the kernels of a level.
#pragma once

#include "../epilogue.hpp"
#include "../executor.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {

/// What the choice of kernels and blocks depends on besides the call itself.
struct gemm_machine {
  index l1 = 0, l2 = 0, l3 = 0;  // data cache bytes
  bool fp16_tiles = false;       // the CPU (or the emulator) has AMX-FP16
  bool widen_bf16 = false;       // multiply bf16 as f32 where vdpbf16ps is the slower way
};

struct gemm_args {
  /// g++ clears an aggregate of this size with `rep stos`, which takes 20 ns.
  gemm_args(const any_matrix& a_, const any_matrix& b_, const any_matrix& c_, const epilogue& e_,
            const executor& exec_)
      : a(a_), b(b_), c(c_), e(e_), exec(exec_) {}

  any_matrix a, b, c;            // the first matrix of each batch
  const void* packed = nullptr;  // B as gemm_pack of the same level and a's type left it; then b.data is null
  index batch = 1;
  // Elements from one matrix of the batch to the next.
  index batch_a = 0, batch_b = 0, batch_c = 0, batch_preactivation = 0, batch_residual = 0;
  epilogue e;
  executor exec;
  gemm_machine machine = {};
  // Called once, before C is touched.
  void* (*scratch)(void* context, index bytes) = nullptr;
  void* scratch_context = nullptr;
};

/// The operands of one call, where those of gemm_args are a plan's.
struct gemm_pointers {
  const void* a;
  const void* b;
  void* c;
};

/// Scratch memory up to this size is taken from the stack.
inline constexpr index gemm_small_scratch = 8192;

/// A checked call with everything decided: made by gemm_prepare of a level, run by that level.
struct gemm_prepared {
  void (*run)(const gemm_prepared&, const gemm_args&, const gemm_pointers&, void* memory) = nullptr;
  index scratch_bytes = 0;  // memory may be null up to gemm_small_scratch
  alignas(8) unsigned char blocking[192] = {};
};

struct gemm_prepare_args {
  const gemm_args* g;
  gemm_prepared* out;
};

struct gemm_pack_args {
  any_matrix b;
  dtype a_type = dtype::f32;
  void* out = nullptr;  // null: only *bytes is set
  index* bytes = nullptr;
  executor exec;
  gemm_machine machine = {};
};

/// The weight of a linear layer, out x in, as B of both its products.
struct gemm_pack_pair_args {
  any_matrix weight;
  dtype a_type = dtype::f32;
  void *forward = nullptr, *backward = nullptr;  // null: only the bytes are set
  index *forward_bytes = nullptr, *backward_bytes = nullptr;
  executor exec;
  gemm_machine machine = {};
};

}  // namespace detail
EINKORN_END_NAMESPACE
