// libxsmm: one JIT kernel per shape, for products that one kernel holds and B as it is (row-major C = A B is
// its column-major C' = B' A'). bf16 wants B in pairs of rows, which is what packed means there.
#include <libxsmm.h>

#include <string>

#include "peer_call.hpp"

namespace {

using bench_peer::matrix;

std::shared_ptr<void> paired_rows(const peer_gemm& p) {
  const std::int64_t size = p.depth * p.cols;
  auto out = bench_peer::memory(static_cast<std::size_t>(p.batch * size) * 2);
  auto* const to = static_cast<std::uint16_t*>(out.get());
  for (std::int64_t i = 0; i < p.batch; ++i)
    for (std::int64_t row = 0; row < p.depth; ++row)
      for (std::int64_t col = 0; col < p.cols; ++col)
        to[i * size + ((row / 2) * p.cols + col) * 2 + row % 2] =
            matrix<std::uint16_t>(p.b, i, size)[row * p.cols + col];
  return out;
}

/// A kernel holds one product; threads share a batch.
template <class Function>
const char* accept(void** handle, const peer_gemm& p, Function one) {
  const std::int64_t batch = p.batch;
  const int threads = p.threads;
  if (batch == 1) return bench_peer::accept(handle, [=] { one(std::int64_t{0}); });
  return bench_peer::accept(handle, [=] {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t i = 0; i < batch; ++i) one(i);
  });
}

const char* prepare_gemm(const peer_gemm* p, void** handle) {
  *handle = nullptr;
  if (p->a_transposed != 0 || p->b_transposed != 0) return "has no JIT kernel for transposed operands";
  if (2.0 * static_cast<double>(p->rows * p->cols) * static_cast<double>(p->depth) > 3e8)
    return "too large for one JIT kernel";
  if (p->batch == 1 && p->threads > 1) return "a kernel runs on one thread";
  const auto m = static_cast<int>(p->cols), n = static_cast<int>(p->rows), k = static_cast<int>(p->depth);
  const std::int64_t a_size = p->rows * p->depth, b_size = p->depth * p->cols, c_size = p->rows * p->cols;
  const float one = 1, zero = 0;
  const void *a = p->a, *b = p->b;
  void* const c = p->c;
  if (p->a_type == peer_f32 && p->b_type == peer_f32 && p->c_type == peer_f32) {
    if (p->packed != 0) return "has no packed f32";
    const int flags = LIBXSMM_GEMM_FLAG_NONE;
    const auto kernel = libxsmm_smmdispatch(m, n, k, nullptr, nullptr, nullptr, &one, &zero, &flags, nullptr);
    if (kernel == nullptr) return "makes no JIT kernel for this shape";
    return accept(handle, *p, [=](std::int64_t i) {
      kernel(matrix<float>(b, i, b_size), matrix<float>(a, i, a_size), static_cast<float*>(c) + i * c_size);
    });
  }
  if (p->a_type == peer_bf16 && p->b_type == peer_bf16) {
    if (p->packed == 0) return "wants bf16 B in pairs of rows";
    if (k % 2 != 0) return "wants an even depth";
    const int flags = LIBXSMM_GEMM_FLAG_VNNI_A;
    const auto w = paired_rows(*p);
    if (p->c_type == peer_f32) {
      const auto kernel =
          libxsmm_bsmmdispatch(m, n, k, nullptr, nullptr, nullptr, &one, &zero, &flags, nullptr);
      if (kernel == nullptr) return "makes no JIT kernel for this shape";
      return accept(handle, *p, [=](std::int64_t i) {
        kernel(matrix<libxsmm_bfloat16>(w.get(), i, b_size), matrix<libxsmm_bfloat16>(a, i, a_size),
               static_cast<float*>(c) + i * c_size);
      });
    }
    if (p->c_type == peer_bf16) {
      const auto kernel =
          libxsmm_bmmdispatch(m, n, k, nullptr, nullptr, nullptr, &one, &zero, &flags, nullptr);
      if (kernel == nullptr) return "makes no JIT kernel for this shape";
      return accept(handle, *p, [=](std::int64_t i) {
        kernel(matrix<libxsmm_bfloat16>(w.get(), i, b_size), matrix<libxsmm_bfloat16>(a, i, a_size),
               static_cast<libxsmm_bfloat16*>(c) + i * c_size);
      });
    }
  }
  return "has no product of these types";
}

}  // namespace

EINKORN_BENCH_PEER {
  static std::string version;
  static peer_interface self{EINKORN_BENCH_PEER_NAME, nullptr, prepare_gemm, nullptr, bench_peer::run,
                             bench_peer::release};
  libxsmm_init();
  version = std::string("libxsmm ") + LIBXSMM_VERSION + ", JIT for " + libxsmm_get_target_arch();
  self.version = version.c_str();
  return &self;
}
