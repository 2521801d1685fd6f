// OpenBLAS: sgemm and sgemv (its packages are built without bf16). EINKORN_BENCH_BLAS_PREFIX stands before
// its symbols.
#include <dlfcn.h>

#include <string>

#include "peer_call.hpp"

namespace {

enum { row_major = 101, plain = 111, transposed = 112 };
using sgemm_function = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int,
                                float, float*, int);
using sgemv_function = void (*)(int, int, int, int, float, const float*, int, const float*, int, float,
                                float*, int);

void* library = nullptr;
void* symbol(const char* name) {
  return dlsym(library, (std::string(EINKORN_BENCH_BLAS_PREFIX) + name).c_str());
}

/// All matrices of the batch: with threads, each takes matrices of its own and the library runs on one.
template <class One>
std::function<void()> over_batch(std::int64_t batch, [[maybe_unused]] int threads, const One& one) {
  if (batch == 1) return [one] { one(std::int64_t{0}); };
  return [=] {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t i = 0; i < batch; ++i) one(i);
  };
}

const char* prepare_gemm(const peer_gemm* p, void** handle) {
  *handle = nullptr;
  if (p->packed != 0) return "has no packed B";
  const auto m = static_cast<int>(p->rows), n = static_cast<int>(p->cols), k = static_cast<int>(p->depth);
  const int ta = p->a_transposed != 0 ? transposed : plain, tb = p->b_transposed != 0 ? transposed : plain;
  const int lda = ta == plain ? k : m, ldb = tb == plain ? n : k;
  const std::int64_t a_size = p->rows * p->depth, b_size = p->depth * p->cols, c_size = p->rows * p->cols;
  const void *a = p->a, *b = p->b;
  auto* const c = static_cast<float*>(p->c);
  const auto use_threads = reinterpret_cast<void (*)(int)>(symbol("openblas_set_num_threads"));
  if (use_threads != nullptr) use_threads(p->batch > 1 ? 1 : p->threads);
  using bench_peer::matrix;
  if (p->a_type != peer_f32 || p->b_type != peer_f32) return "has f32 only";
  const auto sgemm = reinterpret_cast<sgemm_function>(symbol("cblas_sgemm"));
  const auto sgemv = reinterpret_cast<sgemv_function>(symbol("cblas_sgemv"));
  auto call = over_batch(p->batch, p->threads, [=](std::int64_t i) {
    sgemm(row_major, ta, tb, m, n, k, 1, matrix<float>(a, i, a_size), lda, matrix<float>(b, i, b_size), ldb,
          0, c + i * c_size, n);
  });
  if (m == 1 && p->batch == 1) {  // one row: the transpose of (B transposed) * a
    const std::function<void()> by_vector = [=] {
      const int rows = tb == plain ? k : n, cols = tb == plain ? n : k;
      sgemv(row_major, tb == plain ? transposed : plain, rows, cols, 1, static_cast<const float*>(b), cols,
            static_cast<const float*>(a), 1, 0, c, 1);
    };
    if (bench_peer::seconds(by_vector) < bench_peer::seconds(call)) call = by_vector;
  }
  return bench_peer::accept(handle, call);
}

}  // namespace

EINKORN_BENCH_PEER {
  static std::string version;
  static peer_interface self{EINKORN_BENCH_PEER_NAME, nullptr, prepare_gemm, nullptr, bench_peer::run,
                             bench_peer::release};
  library = dlopen(EINKORN_BENCH_BLAS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr || symbol("cblas_sgemm") == nullptr) return nullptr;
  const auto config = reinterpret_cast<const char* (*)()>(symbol("openblas_get_config"));
  const auto core = reinterpret_cast<const char* (*)()>(symbol("openblas_get_corename"));
  version = config != nullptr ? config() : "OpenBLAS";
  version = version.substr(0, version.find(' ', version.find(' ') + 1));
  if (core != nullptr) version += std::string(", kernels for ") + core();
  self.version = version.c_str();
  return &self;
}
