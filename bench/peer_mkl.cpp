// MKL: sgemm, gemm_bf16bf16f32, gemm_f16f16f32, gemm_s8u8s32, with and without packed B.
#include <mkl.h>

#include <string>

#include "peer_call.hpp"

namespace {

using bench_peer::matrix;

const char* prepare_gemm(const peer_gemm* p, void** handle) {
  *handle = nullptr;
  mkl_set_dynamic(0);
  mkl_set_num_threads(p->threads);
  const auto m = static_cast<MKL_INT>(p->rows), n = static_cast<MKL_INT>(p->cols),
             k = static_cast<MKL_INT>(p->depth);
  const CBLAS_TRANSPOSE ta = p->a_transposed != 0 ? CblasTrans : CblasNoTrans,
                        tb = p->b_transposed != 0 ? CblasTrans : CblasNoTrans;
  const MKL_INT lda = ta == CblasNoTrans ? k : m, ldb = tb == CblasNoTrans ? n : k;
  const std::int64_t a_size = p->rows * p->depth, b_size = p->depth * p->cols, c_size = p->rows * p->cols;
  const std::int64_t batch = p->batch;
  const int threads = p->threads;
  const void *a = p->a, *b = p->b;
  void* const c = p->c;
  const bool packed = p->packed != 0;
  if (packed && batch > 1) return "packs no batches";
  std::function<void(std::int64_t)> one;
  std::shared_ptr<void> w;
  const auto pack_memory = [&](std::size_t bytes) { return (w = bench_peer::memory(bytes)).get(); };

  if (p->a_type == peer_f32 && p->b_type == peer_f32 && p->c_type == peer_f32) {
    auto* const y = static_cast<float*>(c);
    if (packed) {
      auto* const to = static_cast<float*>(pack_memory(cblas_sgemm_pack_get_size(CblasBMatrix, m, n, k)));
      cblas_sgemm_pack(CblasRowMajor, CblasBMatrix, tb, m, n, k, 1, static_cast<const float*>(b), ldb, to);
      one = [=](std::int64_t) {
        cblas_sgemm_compute(CblasRowMajor, ta, CblasPacked, m, n, k, static_cast<const float*>(a), lda,
                            static_cast<const float*>(w.get()), ldb, 0, y, n);
      };
    } else if (batch > 1) {
      return bench_peer::accept(handle, [=] {
        cblas_sgemm_batch_strided(CblasRowMajor, ta, tb, m, n, k, 1, static_cast<const float*>(a), lda,
                                  a_size, static_cast<const float*>(b), ldb, b_size, 0, y, n, c_size, batch);
      });
    } else {
      const std::function<void()> call = [=] {
        cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1, static_cast<const float*>(a), lda,
                    static_cast<const float*>(b), ldb, 0, y, n);
      };
      const std::function<void()> by_vector = [=] {
        const MKL_INT rows = tb == CblasNoTrans ? k : n, cols = tb == CblasNoTrans ? n : k;
        cblas_sgemv(CblasRowMajor, tb == CblasNoTrans ? CblasTrans : CblasNoTrans, rows, cols, 1,
                    static_cast<const float*>(b), cols, static_cast<const float*>(a), 1, 0, y, 1);
      };
      return bench_peer::accept(
          handle, m == 1 && bench_peer::seconds(by_vector) < bench_peer::seconds(call) ? by_vector : call);
    }
  } else if (p->a_type == peer_bf16 && p->b_type == peer_bf16 && p->c_type == peer_f32) {
    auto* const y = static_cast<float*>(c);
    if (packed) {
      auto* const to =
          static_cast<MKL_BF16*>(pack_memory(cblas_gemm_bf16bf16f32_pack_get_size(CblasBMatrix, m, n, k)));
      cblas_gemm_bf16bf16f32_pack(CblasRowMajor, CblasBMatrix, tb, m, n, k, static_cast<const MKL_BF16*>(b),
                                  ldb, to);
      one = [=](std::int64_t) {
        cblas_gemm_bf16bf16f32_compute(CblasRowMajor, ta, CblasPacked, m, n, k, 1,
                                       static_cast<const MKL_BF16*>(a), lda,
                                       static_cast<const MKL_BF16*>(w.get()), ldb, 0, y, n);
      };
    } else {
      one = [=](std::int64_t i) {
        cblas_gemm_bf16bf16f32(CblasRowMajor, ta, tb, m, n, k, 1, matrix<MKL_BF16>(a, i, a_size), lda,
                               matrix<MKL_BF16>(b, i, b_size), ldb, 0, y + i * c_size, n);
      };
    }
  } else if (p->a_type == peer_fp16 && p->b_type == peer_fp16 && p->c_type == peer_f32) {
    if (packed) return "has no packed fp16";
    one = [=](std::int64_t i) {
      cblas_gemm_f16f16f32(CblasRowMajor, ta, tb, m, n, k, 1, matrix<MKL_F16>(a, i, a_size), lda,
                           matrix<MKL_F16>(b, i, b_size), ldb, 0, static_cast<float*>(c) + i * c_size, n);
    };
  } else if (p->a_type == peer_u8 && p->b_type == peer_s8 && p->c_type == peer_i32) {
    // Its A is s8 and its B u8 in column-major order; in row-major order they come out as u8 and s8.
    static const MKL_INT32 no_offset = 0;
    auto* const y = static_cast<MKL_INT32*>(c);
    if (packed) {
      void* const to = pack_memory(cblas_gemm_s8u8s32_pack_get_size(CblasBMatrix, m, n, k));
      cblas_gemm_s8u8s32_pack(CblasRowMajor, CblasBMatrix, tb, m, n, k, b, ldb, to);
      one = [=](std::int64_t) {
        cblas_gemm_s8u8s32_compute(CblasRowMajor, ta, CblasPacked, CblasFixOffset, m, n, k, 1, a, lda, 0,
                                   w.get(), ldb, 0, 0, y, n, &no_offset);
      };
    } else {
      one = [=](std::int64_t i) {
        cblas_gemm_s8u8s32(CblasRowMajor, ta, tb, CblasFixOffset, m, n, k, 1,
                           matrix<std::uint8_t>(a, i, a_size), lda, 0, matrix<std::int8_t>(b, i, b_size), ldb,
                           0, 0, y + i * c_size, n, &no_offset);
      };
    }
  } else {
    return "has no product of these types";
  }
  if (batch == 1) return bench_peer::accept(handle, [=] { one(0); });
  return bench_peer::accept(handle, [=] {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t i = 0; i < batch; ++i) {
      mkl_set_num_threads_local(1);
      one(i);
      mkl_set_num_threads_local(0);
    }
  });
}

}  // namespace

EINKORN_BENCH_PEER {
  static char version[256];
  static const peer_interface self{EINKORN_BENCH_PEER_NAME, version, prepare_gemm, nullptr, bench_peer::run,
                                   bench_peer::release};
  mkl_get_version_string(version, sizeof(version));
  return &self;
}
