/// What attention.hpp hands to the kernels of a level.
#pragma once

#include "../executor.hpp"
#include "dropout_spec.hpp"
#include "gemm_args.hpp"

EINKORN_BEGIN_NAMESPACE

struct attention_options {
  int heads = 1;
  float scale = 0;  // 0: 1 / sqrt(columns of a head)
  /// Dropout on the probabilities: `site` + head is the site, query * 65536 + key the index inside the
  /// sample. Its `sequences` are not read: attention has its own.
  dropout_spec dropout = {};
};

namespace detail {

struct attention_args {
  any_matrix qkv, out;
  std::span<const sequence> sequences;
  float* lse;  // heads x rows
  attention_options options;
  executor exec;
  gemm_machine machine = {};
  // Memory of the calling thread, aligned to 64 bytes; null, and *failed, where there is none.
  void* (*scratch)(index bytes, bool* failed) = nullptr;
  bool* failed = nullptr;
};

struct attention_backward_args {
  any_matrix qkv, out, dout, dqkv;
  std::span<const sequence> sequences;
  const float* lse;
  attention_options options;
  executor exec;
  gemm_machine machine = {};
  // Memory of the calling thread, aligned to 64 bytes; null, and *failed, where there is none.
  void* (*scratch)(index bytes, bool* failed) = nullptr;
  bool* failed = nullptr;
};

}  // namespace detail
EINKORN_END_NAMESPACE
