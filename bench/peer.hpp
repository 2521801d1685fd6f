// What a peer is: another library behind a few C functions, in a shared object of its own. Each is loaded
// with RTLD_LOCAL | RTLD_DEEPBIND, so that two versions of one library live in one process and neither sees
// the other's symbols. A peer that refuses a problem says why; it is never skipped in silence.
#pragma once

#include <cstdint>

extern "C" {

/// The numbers are those of einkorn::dtype.
enum peer_type : std::int32_t { peer_f32, peer_bf16, peer_fp16, peer_i32, peer_u8, peer_s8 };

/// C = A * B, or `batch` of them, each matrix right after the one before. Row-major without gaps; transposed:
/// stored the other way round.
struct peer_gemm {
  std::int64_t batch, rows, cols, depth;
  peer_type a_type, b_type, c_type;
  std::int32_t a_transposed, b_transposed;
  std::int32_t packed;  ///< B is a weight: reordered once in prepare, in the peer's own way
  std::int32_t threads;
  const void *a, *b;
  void* c;
};

enum peer_operation : std::int32_t {
  peer_softmax,             ///< y = softmax(x)
  peer_softmax_backward,    ///< dx from y and dy
  peer_layernorm,           ///< y, mean, variance from x, gamma, beta; eps 1e-12
  peer_layernorm_backward,  ///< dx, dgamma, dbeta from x, dy, mean, variance, gamma
  peer_gelu,                ///< y = gelu(x), erf
  peer_gelu_backward        ///< dx from x and dy
};

/// rows x cols matrices of one type; vectors are f32.
struct peer_rows {
  peer_operation operation;
  peer_type type;
  std::int64_t rows, cols;
  std::int32_t threads;
  void *x, *y, *dy, *dx;
  float *gamma, *beta, *dgamma, *dbeta;  ///< cols
  float *mean, *variance;                ///< rows
};

struct peer_interface {
  const char* name;     ///< as it appears in counters: one word
  const char* version;  ///< of the library, and what it chose for this machine
  /// 0 and a handle; else null in *handle and the reason in the text returned. Operands stay where they are
  /// until release. Null functions: the peer has no such operation.
  const char* (*prepare_gemm)(const peer_gemm* problem, void** handle);
  const char* (*prepare_rows)(const peer_rows* problem, void** handle);
  void (*run)(void* handle);
  void (*release)(void* handle);
};

/// The one symbol of a peer's shared object. Throws nothing; null when the library does not start.
using peer_entry = const peer_interface* (*)();
#define EINKORN_BENCH_PEER \
  extern "C" __attribute__((visibility("default"))) const peer_interface* einkorn_bench_peer()
}
