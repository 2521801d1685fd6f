/// Scaled dot-product attention over a batch of sequences, forward and backward.
#pragma once

#include <cmath>

#include "allocation.hpp"
#include "detail/attention_args.hpp"
#include "detail/gemm_checks.hpp"
#include "detail/gemm_machine.hpp"
#include "error.hpp"
#include "isa.hpp"

EINKORN_BEGIN_NAMESPACE

namespace detail {

/// Shapes, the sequences inside the rows and without overlap, and the options.
inline void check_attention(const char* function, const any_matrix& qkv, const any_matrix& out,
                            std::size_t lse_size, std::span<const sequence> sequences,
                            attention_options& options) {
  require_plain(function, "qkv", qkv);
  require_plain(function, "out", out);
  require(options.heads > 0, function, "options.heads must be positive");
  require_equal(function, "out.rows", out.rows, "qkv.rows", qkv.rows);
  require_equal(function, "3 * out.cols", 3 * out.cols, "qkv.cols", qkv.cols);
  if (out.cols % options.heads != 0) [[unlikely]]
    fail(std::string(function) + ": out.cols " + std::to_string(out.cols) + " is not a multiple of heads " +
         std::to_string(options.heads));
  require(qkv.type == dtype::f32 || qkv.type == dtype::bf16 || qkv.type == dtype::fp16, function,
          "qkv must be f32, bf16 or fp16");
  require(qkv.type == out.type, function, "out must have the type of qkv");
  require_equal(function, "lse.size", static_cast<index>(lse_size), "heads * rows", options.heads * qkv.rows);
  require_probability(function, options.dropout.p);
  index next = 0;  // sequences come in the order of their rows, so overlap is one comparison
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const sequence& s = sequences[i];
    if (s.first_row < next || s.rows < 0 || s.keys < -1 || s.keys > s.rows || s.first_row > qkv.rows ||
        s.rows > qkv.rows - s.first_row) [[unlikely]]
      fail(std::string(function) + ": sequences[" + std::to_string(i) + "] {first_row " +
           std::to_string(s.first_row) + ", rows " + std::to_string(s.rows) + ", keys " +
           std::to_string(s.keys) + "} is not inside " + std::to_string(qkv.rows) + " rows after row " +
           std::to_string(next) + " with keys <= rows");
    require(s.rows < 65536 || options.dropout.p == 0, function,
            "with dropout a sequence has at most 65535 rows");
    next = s.first_row + s.rows;
  }
  if (options.scale == 0 && out.cols > 0)
    options.scale = 1.0f / std::sqrt(static_cast<float>(out.cols / options.heads));
}

inline void require_disjoint(const char* function, const any_matrix& output, const char* output_name,
                             const any_matrix& input, const char* input_name) {
  if (overlap(footprint_of(output), footprint_of(input))) [[unlikely]]
    fail(std::string(function) + ": " + output_name + " overlaps " + input_name);
}

/// The workspace of the calling thread. Tasks do not throw: the call does, after them.
inline void* attention_scratch(index bytes, bool* failed) {
  thread_local workspace memory;
  try {
    return memory.reserve(bytes);
  } catch (const error&) {
    __atomic_store_n(failed, true, __ATOMIC_RELAXED);
    return nullptr;
  }
}

}  // namespace detail

/// For each sequence s and head h, with Q, K, V the columns of that head in the three thirds of qkv:
///   out = dropout(P) * V, P = softmax(scale * Q * transpose(K)) over the first s.keys rows of s.
///
/// qkv: rows x 3H, what one linear projection writes ([Q | K | V], each H = heads * head columns); out: rows
/// x H. lse: heads x rows, the log-sum-exp of each row of scores, which backward needs. Keys beyond s.keys
/// are skipped, never multiplied by 0: NaN there does not leak. s.keys == 0 gives 0 and lse -infinity. Rows
/// that belong to no sequence are not written. Scores, softmax and sums in f32; probabilities are rounded to
/// the type of qkv only where the level multiplies in that type. Options: detail/attention_args.hpp.
/// Error per element of a head of d columns, with z the row's largest |scale| * sum|q * k|, u = (2 (d + 4) z
/// + keys + 16) * 2^-23 and eps of the type of qkv: 2 (u + eps) * sum(dropout(P) * |v|) + 2 eps * |out|; lse:
/// u + 2^-21 * (1 + |lse|). Memory linear in the sequence length, one workspace for each thread. Same ISA,
/// same bits, for any number of threads. Throws einkorn::error on a mismatch of shapes or types, an overlap
/// or sequences outside the rows, before anything is written; and where a thread gets no memory, out is
/// incomplete then. Truth: reference/attention.hpp
inline void attention(const any_matrix& qkv, std::span<const sequence> sequences, const any_output& out,
                      std::span<float> lse, attention_options options,
                      const executor& exec = default_executor()) {
  const char* const function = "attention";
  detail::check_attention(function, qkv, out, lse.size(), sequences, options);
  detail::require_disjoint(function, out, "out", qkv, "qkv");
  bool failed = false;
  detail::kernels().attention({qkv, out, sequences, lse.data(), options, exec, detail::this_machine(),
                               &detail::attention_scratch, &failed});
  detail::require(!failed, function, "no memory for the workspace of a thread; out is incomplete");
}

/// The gradient of attention: dqkv (rows x 3H, overwritten) from dout, by recomputing the probabilities from
/// qkv and lse: dS = P * (dP - rowsum(dout * out)), dP = mask * dout * transpose(V).
///
/// Same shapes, types, options and sequences as the forward call. dqkv rows of keys beyond s.keys get zero
/// gradients for K and V. dqkv overlaps none of the inputs. Rows of no sequence are not written. P and dS are
/// rounded as P is forward, sums are f32. The bound of an element is the error of P, dP and dS carried
/// through its sum of magnitudes: for dQ, |scale| * sum(error(dS) * |k|). tests/attention_test.cpp writes
/// them out. Threads, memory and errors as attention. Truth: reference/attention.hpp
inline void attention_backward(const any_matrix& qkv, const any_matrix& out, const any_matrix& dout,
                               std::span<const float> lse, std::span<const sequence> sequences,
                               const any_output& dqkv, attention_options options,
                               const executor& exec = default_executor()) {
  const char* const function = "attention_backward";
  detail::check_attention(function, qkv, out, lse.size(), sequences, options);
  detail::require_plain(function, "dout", dout);
  detail::require_plain(function, "dqkv", dqkv);
  detail::require_same_shape(function, "dout", dout, "out", out);
  detail::require_same_shape(function, "dqkv", dqkv, "qkv", qkv);
  detail::require(dout.type == qkv.type && dqkv.type == qkv.type, function,
                  "dout and dqkv must have the type of qkv");
  detail::require_disjoint(function, dqkv, "dqkv", qkv, "qkv");
  detail::require_disjoint(function, dqkv, "dqkv", out, "out");
  detail::require_disjoint(function, dqkv, "dqkv", dout, "dout");
  bool failed = false;
  detail::kernels().attention_backward({qkv, out, dout, dqkv, sequences, lse.data(), options, exec,
                                        detail::this_machine(), &detail::attention_scratch, &failed});
  detail::require(!failed, function, "no memory for the workspace of a thread; dqkv is incomplete");
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
