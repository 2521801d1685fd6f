/// The epilogue of epilogue.hpp on one tile of f32 (or i32) sums while it is in L1.
#pragma once

#include "../detail/gemm_args.hpp"
#include "elements.hpp"
#include "gemm_dequantize.hpp"
#include "math.hpp"
#include "two_vectors.hpp"

EINKORN_BEGIN_LEVEL

inline const char* gemm_address(const any_matrix& m, index offset) {
  return static_cast<const char*>(m.data) + offset * size_of(m.type);
}

/// Rows of C, pitch and width in bytes, towards L1 to be written.
inline void gemm_prefetch_rows(const char* first, index pitch, index rows, index bytes) {
  for (index r = 0; r < rows; ++r) {
    __builtin_prefetch(first + r * pitch, 1);
    __builtin_prefetch(first + r * pitch + bytes - 1, 1);
  }
}

inline vf gemm_activate(activation act, vf x) {
  switch (act) {
    case activation::gelu:
      return gelu(x);
    case activation::gelu_tanh:
      return gelu_tanh(x);
    case activation::relu:
      return math::at_least(broadcast(0.0f), x);  // NaN stays
    case activation::tanh:
      return tanh(x);
    default:
      return x;
  }
}

/// The vector of a row from column `col` on, or what is left of it. Plain: only a conversion.
template <bool Plain, class Lanes>
inline void gemm_finish_vector(const epilogue& e, vf v, index col, any_row c, any_row pre, any_row residual,
                               const Lanes& lanes) {
  if constexpr (!Plain) {
    v *= broadcast(e.alpha);
    if (e.beta != 0) v = fma(broadcast(e.beta), lanes(c), v);
    if (e.bias != nullptr) v += lanes(e.bias + col);
    if (pre.data != nullptr) lanes(pre, v);
    if (e.act != activation::none) v = gemm_activate(e.act, v);
    if (residual.data != nullptr) v += lanes(residual);
  }
  lanes(c, v);
}

template <bool Plain, class Accumulator>
inline void gemm_finish_rows(const detail::gemm_args& g, void* c_data, index batch, index row0, index rows,
                             index col0, index cols, const Accumulator* acc, index acc_stride) {
  const epilogue& e = g.e;
  const auto segment = [&](const any_matrix& m, void* data, index batch_stride, index row) {
    const any_row all{data, m.type};
    return data != nullptr ? all + (batch * batch_stride + row * m.stride + col0) : all;
  };
  for (index r = 0; r < rows; ++r, acc += acc_stride) {
    const index row = row0 + r;
    const any_row c = segment(g.c, c_data, g.batch_c, row);
    const any_row pre =
        segment(e.preactivation, Plain ? nullptr : e.preactivation.data, g.batch_preactivation, row);
    const any_row residual = segment(e.residual, Plain ? nullptr : e.residual.data, g.batch_residual, row);
    const auto at = [](any_row segment_, index col) {
      return segment_.data != nullptr ? segment_ + col : segment_;
    };
    for_vectors(cols, [&](index col, const auto& lanes) {
      const vf sum = gemm_sum(e.dequantize, acc + col, row, col0 + col, cols - col);
      gemm_finish_vector<Plain>(e, sum, col0 + col, c + col, at(pre, col), at(residual, col), lanes);
    });
  }
}

/// The usual end of a linear layer on a whole tile, nothing decided inside the loop: C = act(sum + bias), and
/// sum + bias in Pre (void: nowhere). No bias is -0, which keeps every sum as it is. With the decisions
/// inside, bias alone cost 5 % of a product 768 deep. sum(row, col): a vector.
template <class Sum, class C, class Pre, class Act>
inline void gemm_finish_linear(const float* bias, index rows, index cols, const Sum& sum, C* c,
                               index c_stride, Pre* pre, index pre_stride, const Act& act) {
  index col = 0;
  for (; col + 2 * vf_size <= cols; col += 2 * vf_size) {  // bf16 is rounded and stored two vectors at a time
    const two_vectors shift = bias != nullptr ? load_two(bias + col) : two_vectors{broadcast(-0.0f)};
    for (index r = 0; r < rows; ++r) {
      const two_vectors v = two_vectors{sum(r, col), sum(r, col + vf_size)} + shift;
      if constexpr (!std::is_void_v<Pre>) put_in_order(pre + r * pre_stride + col, v, false);
      put_in_order(c + r * c_stride + col, act(v), false);
    }
  }
  if (col == cols) return;
  const vf shift = bias != nullptr ? load(bias + col) : broadcast(-0.0f);
  for (index r = 0; r < rows; ++r) {
    const vf v = sum(r, col) + shift;
    if constexpr (!std::is_void_v<Pre>) store(pre + r * pre_stride + col, v);
    store(c + r * c_stride + col, act(v));
  }
}

/// Whether that was the call: then it is done.
template <class C, class Accumulator>
inline bool gemm_finish_linear(const detail::gemm_args& g, void* c_data, index batch, index row0, index rows,
                               index col0, index cols, const Accumulator* acc, index acc_stride) {
  const epilogue& e = g.e;
  const any_matrix& pre = e.preactivation;
  if (e.alpha != 1 || e.beta != 0 || e.residual.data != nullptr || cols % vf_size != 0) return false;
  if (e.act != activation::none && e.act != activation::gelu) return false;
  if (pre.data != nullptr && pre.type != dtype_of<C>) return false;
  C* const c = static_cast<C*>(c_data) + batch * g.batch_c + row0 * g.c.stride + col0;
  C* const p = static_cast<C*>(pre.data) +
               (pre.data == nullptr ? 0 : batch * g.batch_preactivation + row0 * pre.stride + col0);
  const float* const bias = e.bias != nullptr ? e.bias + col0 : nullptr;
  const auto sum = [&](index row, index col) {
    return gemm_sum(e.dequantize, acc + row * acc_stride + col, row0 + row, col0 + col, vf_size);
  };
  const auto finish = [&](auto* to, const auto& act) {
    gemm_finish_linear(bias, rows, cols, sum, c, g.c.stride, to, pre.stride, act);
  };
  const auto same = [](auto x) { return x; };
  const auto gelu_of = [](auto x) { return gelu(x); };
  if (pre.data == nullptr)
    e.act == activation::none ? finish(static_cast<void*>(nullptr), same)
                              : finish(static_cast<void*>(nullptr), gelu_of);
  else
    e.act == activation::none ? finish(p, same) : finish(p, gelu_of);
  return true;
}

/// C(row0.., col0..) = epilogue(acc), C not i32: acc is a tile whose rows can be read up to a whole vector.
template <class Accumulator>
inline void gemm_finish_real(const detail::gemm_args& g, void* c_data, index batch, index row0, index rows,
                             index col0, index cols, const Accumulator* acc, index acc_stride) {
  const bool done = g.c.type == dtype::f32
                        ? gemm_finish_linear<float>(g, c_data, batch, row0, rows, col0, cols, acc, acc_stride)
                    : g.c.type == dtype::bf16
                        ? gemm_finish_linear<bf16>(g, c_data, batch, row0, rows, col0, cols, acc, acc_stride)
                        : gemm_finish_linear<fp16>(g, c_data, batch, row0, rows, col0, cols, acc, acc_stride);
  if (done) return;
  const epilogue& e = g.e;
  const bool plain = e.alpha == 1 && e.beta == 0 && e.bias == nullptr && e.act == activation::none &&
                     e.preactivation.data == nullptr && e.residual.data == nullptr;
  if (plain)
    gemm_finish_rows<true>(g, c_data, batch, row0, rows, col0, cols, acc, acc_stride);
  else
    gemm_finish_rows<false>(g, c_data, batch, row0, rows, col0, cols, acc, acc_stride);
}

inline void gemm_finish_tile(const detail::gemm_args& g, void* c_data, index batch, index row0, index rows,
                             index col0, index cols, const float* acc, index acc_stride) {
  gemm_finish_real(g, c_data, batch, row0, rows, col0, cols, acc, acc_stride);
}

/// i32: C = acc, or C += acc, modulo 2^32; or as f32.
inline void gemm_finish_tile(const detail::gemm_args& g, void* c_data, index batch, index row0, index rows,
                             index col0, index cols, const std::int32_t* acc, index acc_stride) {
  if (g.c.type != dtype::i32) {
    gemm_finish_real(g, c_data, batch, row0, rows, col0, cols, acc, acc_stride);
    return;
  }
  for (index r = 0; r < rows; ++r, acc += acc_stride) {
    auto* const c = static_cast<std::int32_t*>(c_data) + batch * g.batch_c + (row0 + r) * g.c.stride + col0;
    for (index col = 0; col < cols; ++col) {
      const auto before = static_cast<std::uint32_t>(g.e.beta != 0 ? c[col] : 0);
      c[col] = static_cast<std::int32_t>(before + static_cast<std::uint32_t>(acc[col]));
    }
  }
}

/// to(row, col) [+]= from(row, col); integers wrap.
template <class Accumulator>
inline void gemm_add_tile(Accumulator* to, index stride, const Accumulator* from, index from_stride,
                          index rows, index cols, bool accumulate) {
  using sum = std::conditional_t<std::is_same_v<Accumulator, float>, float, std::uint32_t>;
  for (index r = 0; r < rows; ++r, to += stride, from += from_stride)
    for (index c = 0; c < cols; ++c)
      to[c] = accumulate ? static_cast<Accumulator>(static_cast<sum>(to[c]) + static_cast<sum>(from[c]))
                         : from[c];
}

EINKORN_END_LEVEL
