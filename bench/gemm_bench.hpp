// GEMM shapes of a BERT, and the peers they are compared with.
#pragma once

#include <einkorn/einkorn.hpp>

namespace bench {

using einkorn::index;

struct gemm_shape {
  index batch, rows, cols, depth;
  bool a_transposed, b_transposed;
};

/// Operands of one benchmark; every batch matrix follows the one before without a gap.
struct gemm_operands {
  gemm_shape shape;
  einkorn::dtype a_type, b_type, c_type;
  void *a, *b, *c;
};

void register_gemm();

#if EINKORN_BENCH_ONEDNN
/// oneDNN's matmul on the same operands; null where it refuses them. Deleted by onednn_release.
struct onednn_matmul;
onednn_matmul* onednn_prepare(const gemm_operands& operands, bool packed);
void onednn_run(onednn_matmul& matmul);
void onednn_release(onednn_matmul* matmul);
#endif

}  // namespace bench
