/// int8 for inference: activations to bytes row by row as they come, weights channel by channel once, and
/// linear layers on both.
///
///   einkorn::quantized_weights w8(w);                        // w: out x in, once
///   einkorn::quantize_rows(x, rows);                         // x: R x in
///   einkorn::gemm(rows, w8, y, {.bias = b, .act = einkorn::activation::gelu});  // y ~ gelu(x W^T + b)
///
/// Activations are u8 with a zero (affine), weights s8 without (symmetric): that is what vpdpbusd and tdpbusd
/// multiply, so A is read in place, and GELU's output, which is hardly ever negative, keeps all 8 bits.
#pragma once

#include <span>
#include <utility>

#include "detail/quantize_args.hpp"
#include "detail/row_checks.hpp"
#include "gemm.hpp"

EINKORN_BEGIN_NAMESPACE

/// x(r, c) is about scales[r] * (q(r, c) - zeros[r]).
struct quantized_rows {
  matrix_view<std::uint8_t> q;
  std::span<float> scales;
  std::span<std::int32_t> zeros;
};

namespace detail {
/// numbers: of rows, written while x is read and q is written.
template <class T>
void require_apart(const char* function, const char* name, std::span<T> numbers, const any_matrix& x,
                   const any_matrix& q) {
  const footprint own{reinterpret_cast<std::uintptr_t>(numbers.data()), 1,
                      static_cast<index>(numbers.size_bytes()), 0};
  for (const auto& [other, m] : {std::pair("x", &x), std::pair("q", &q)})
    if (overlap(own, footprint_of(*m))) [[unlikely]]
      fail(std::string(function) + ": " + name + " overlap " + other);
}
}  // namespace detail

/// lo = min(0, row's least), hi = max(0, row's greatest); scale = (hi - lo) / 255, zero = round(-lo / scale),
/// q = round(x / scale) + zero within 0..255, to nearest even.
///
/// x: rows x cols, f32, bf16 or fp16. |x - scale (q - zero)| <= 0.501 scale. A row whose range is below
/// 2^-100 is zeros with scale 0; one with NaN or infinity is zeros with scale NaN, so that what is made of it
/// is NaN. The same bytes on every level, for any number of threads. Allocates nothing. Throws
/// einkorn::error on a mismatch or an overlap, before anything is written. Truth: reference/quantize.hpp
inline void quantize_rows(const any_matrix& x, const quantized_rows& out,
                          const executor& exec = default_executor()) {
  const char* const function = "quantize_rows";
  detail::require_real(function, "x", x);
  const any_matrix q = out.q;
  detail::require_plain(function, "q", q);
  detail::require_same_shape(function, "q", q, "x", x);
  detail::require_same_or_apart(function, "q", q, "x", x);
  detail::require_size(function, "scales.size", out.scales, "x.rows", x.rows);
  detail::require_size(function, "zeros.size", out.zeros, "x.rows", x.rows);
  detail::require_apart(function, "scales", out.scales, x, q);
  detail::require_apart(function, "zeros", out.zeros, x, q);
  detail::kernels().quantize_rows({x, q, out.scales.data(), out.zeros.data(), nullptr, exec});
}

/// Without a zero: scale = max|row| / 127, q = round(x / scale); sums, if not empty, are those of q's rows.
/// All else as above, with the same error bound.
inline void quantize_rows(const any_matrix& x, const matrix_view<std::int8_t>& q, std::span<float> scales,
                          std::span<std::int32_t> sums = {}, const executor& exec = default_executor()) {
  const char* const function = "quantize_rows";
  detail::require_real(function, "x", x);
  detail::require_plain(function, "q", q);
  detail::require_same_shape(function, "q", q, "x", x);
  detail::require_same_or_apart(function, "q", q, "x", x);
  detail::require_size(function, "scales.size", scales, "x.rows", x.rows);
  if (!sums.empty()) detail::require_size(function, "sums.size", sums, "x.rows", x.rows);
  detail::require_apart(function, "scales", scales, x, q);
  detail::require_apart(function, "sums", sums, x, q);
  detail::kernels().quantize_rows({x, q, scales.data(), nullptr, sums.empty() ? nullptr : sums.data(), exec});
}

/// The weight of a linear layer as s8 with a scale for each output channel, packed for the active level. As
/// packed_matrix: movable, and an error under another level.
class quantized_weights {
 public:
  quantized_weights() noexcept = default;
  /// The sum of products of so many bytes less its zero, 255 * 127 each, fits into 32 bits.
  static constexpr index most_depth = 66311;

  /// w: out x in, f32, bf16 or fp16, as a linear layer stores it; in is at most most_depth. Throws
  /// einkorn::error otherwise.
  explicit quantized_weights(const any_matrix& w, const executor& exec = default_executor())
      : channels_(w.rows), scales_and_sums_(w.rows * 8) {
    detail::require_real("quantized_weights", "w", w);
    if (w.cols > most_depth) [[unlikely]]
      detail::fail("quantized_weights: w.cols " + std::to_string(w.cols) + ", at most " +
                   std::to_string(most_depth) + " products fit into sums of 32 bits");
    const buffer bytes(w.rows * w.cols);
    const matrix_view<std::int8_t> q(static_cast<std::int8_t*>(bytes.data()), w.rows, w.cols);
    const auto count = static_cast<std::size_t>(w.rows);
    quantize_rows(w, q, {scales(), count}, {sums(), count}, exec);
    pack_into(packed_, transpose(q), dtype::u8, exec);
  }

  index depth() const noexcept { return packed_.rows(); }
  index channels() const noexcept { return channels_; }
  index bytes() const noexcept { return packed_.bytes() + scales_and_sums_.bytes(); }
  const packed_matrix& packed() const noexcept { return packed_; }
  float* scales() const noexcept { return static_cast<float*>(scales_and_sums_.data()); }
  std::int32_t* sums() const noexcept { return reinterpret_cast<std::int32_t*>(scales() + channels_); }

 private:
  index channels_ = 0;
  buffer scales_and_sums_;
  packed_matrix packed_;
};

/// C = epilogue(x W^T), dequantised on the way: the integer part is exact on every level, and its conversion
/// to f32 and the two scales cost a rounding each. C: rows of x x channels.
template <class C>
requires gemm_types<std::uint8_t, std::int8_t, C>
void gemm(const quantized_rows& x, const quantized_weights& w, const matrix_view<C>& c, epilogue e = {},
          const executor& exec = default_executor(), workspace* scratch = nullptr) {
  e.dequantize = {x.scales.data(), w.scales(), x.zeros.data(), w.sums()};
  detail::require_size("gemm", "x.scales.size", x.scales, "x.q.rows", x.q.rows);
  detail::require_size("gemm", "x.zeros.size", x.zeros, "x.q.rows", x.q.rows);
  gemm(x.q, w.packed(), c, e, exec, scratch);
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
