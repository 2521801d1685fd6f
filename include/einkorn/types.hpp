/// Element types, matrix views and the layout of a batch of sequences.
///
/// Words used everywhere: rows, cols, depth; strides are counted in elements, never in bytes.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

#include "config.hpp"

EINKORN_BEGIN_NAMESPACE

using index = std::int64_t;

namespace detail {

/// Round to nearest, ties to even. Denormals become signed zeros, as vcvtneps2bf16 does whatever MXCSR says.
constexpr std::uint16_t bf16_bits(float value) noexcept {
  const auto x = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = x & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>((x >> 16) | 0x40u);  // quiet the NaN
  if (magnitude < 0x00800000u) return static_cast<std::uint16_t>((x >> 16) & 0x8000u);
  return static_cast<std::uint16_t>((x + 0x7fffu + ((x >> 16) & 1u)) >> 16);
}

/// Round to nearest, ties to even, denormals kept, overflow to infinity: IEEE 754 binary16, as vcvtps2ph.
constexpr std::uint16_t fp16_bits(float value) noexcept {
  const auto x = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (x >> 16) & 0x8000u;
  const std::uint32_t magnitude = x & 0x7fffffffu;
  std::uint32_t bits;
  if (magnitude > 0x7f800000u) {
    bits = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above
    bits = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: a denormal, or zero
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) {
      bits = 0;
    } else {
      const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
      const std::uint32_t shift = 126 - exponent;  // 14 to 24
      const std::uint32_t rest = mantissa & ((1u << shift) - 1);
      const std::uint32_t half = 1u << (shift - 1);
      bits = mantissa >> shift;
      bits += static_cast<std::uint32_t>(rest > half || (rest == half && (bits & 1u) != 0));
    }
  } else {
    const std::uint32_t rebiased = magnitude - (112u << 23);
    bits = (rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | bits);
}

constexpr float fp16_value(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 0xffu : exponent + 112;
  // A signalling NaN comes out quiet, as from vcvtph2ps.
  const std::uint32_t quiet = exponent == 31 && mantissa != 0 ? 0x400000u : 0;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13) | quiet);
}

}  // namespace detail

/// bfloat16: the upper half of an f32. Arithmetic is done in f32.
struct bf16 {
  std::uint16_t bits = 0;
  constexpr bf16() noexcept = default;
  constexpr explicit bf16(float value) noexcept : bits(detail::bf16_bits(value)) {}
  constexpr operator float() const noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  static constexpr bf16 from_bits(std::uint16_t bits) noexcept {
    bf16 result;
    result.bits = bits;
    return result;
  }
};

/// IEEE 754 binary16. Arithmetic is done in f32.
struct fp16 {
  std::uint16_t bits = 0;
  constexpr fp16() noexcept = default;
  constexpr explicit fp16(float value) noexcept : bits(detail::fp16_bits(value)) {}
  constexpr operator float() const noexcept { return detail::fp16_value(bits); }
  static constexpr fp16 from_bits(std::uint16_t bits) noexcept {
    fp16 result;
    result.bits = bits;
    return result;
  }
};

enum class dtype : std::uint8_t { f32, bf16, fp16, i32, u8, s8 };

constexpr const char* name(dtype type) noexcept {
  constexpr const char* names[] = {"f32", "bf16", "fp16", "i32", "u8", "s8"};
  return names[static_cast<int>(type)];
}
constexpr index size_of(dtype type) noexcept {
  return 0x114224 >> 4 * static_cast<int>(type) & 7;  // of a table g++ makes a copy on the stack
}

namespace detail {
template <class T>
struct dtype_of_impl;
template <>
struct dtype_of_impl<float> : std::integral_constant<dtype, dtype::f32> {};
template <>
struct dtype_of_impl<bf16> : std::integral_constant<dtype, dtype::bf16> {};
template <>
struct dtype_of_impl<fp16> : std::integral_constant<dtype, dtype::fp16> {};
template <>
struct dtype_of_impl<std::int32_t> : std::integral_constant<dtype, dtype::i32> {};
template <>
struct dtype_of_impl<std::uint8_t> : std::integral_constant<dtype, dtype::u8> {};
template <>
struct dtype_of_impl<std::int8_t> : std::integral_constant<dtype, dtype::s8> {};
}  // namespace detail

template <class T>
inline constexpr dtype dtype_of = detail::dtype_of_impl<std::remove_cv_t<T>>::value;

/// What softmax, layer normalisation and the other non-integer operations store.
template <class T>
concept real = std::is_same_v < std::remove_cv_t<T>,
float > || std::is_same_v<std::remove_cv_t<T>, bf16> || std::is_same_v<std::remove_cv_t<T>, fp16>;

/// A matrix in somebody else's memory: element (r, c) is data[r * stride + c], or data[c * stride + r] when
/// `transposed`. rows and cols are always the logical ones.
template <class T>
struct matrix_view {
  using value_type = T;

  T* data = nullptr;
  index rows = 0, cols = 0;
  index stride = 0;  // elements between neighbouring rows in memory
  bool transposed = false;

  constexpr matrix_view() noexcept = default;
  constexpr matrix_view(T* data_, index rows_, index cols_) noexcept
      : matrix_view(data_, rows_, cols_, cols_) {}
  constexpr matrix_view(T* data_, index rows_, index cols_, index stride_, bool transposed_ = false) noexcept
      : data(data_), rows(rows_), cols(cols_), stride(stride_), transposed(transposed_) {}
  /// A view of T converts to a view of const T.
  template <class U>
  requires(std::is_same_v<const U, T> &&
           !std::is_const_v<U>) constexpr matrix_view(const matrix_view<U>& other) noexcept
      : matrix_view(other.data, other.rows, other.cols, other.stride, other.transposed) {}

  constexpr T& operator()(index row, index col) const noexcept {
    return transposed ? data[col * stride + row] : data[row * stride + col];
  }
  /// rows [first, first + count); the view must not be transposed.
  constexpr matrix_view rows_from(index first, index count) const noexcept {
    return {data + first * stride, count, cols, stride, false};
  }
  /// cols [first, first + count); the view must not be transposed.
  constexpr matrix_view cols_from(index first, index count) const noexcept {
    return {data + first, rows, count, stride, false};
  }
};

template <class T>
constexpr matrix_view<T> transpose(const matrix_view<T>& m) noexcept {
  return {m.data, m.cols, m.rows, m.stride, !m.transposed};
}

/// A view whose element type is known at run time; how matrices cross the dispatch. It forgets whether the
/// elements are const: what an operation reads.
struct any_matrix {
  void* data = nullptr;
  index rows = 0, cols = 0, stride = 0;
  dtype type = dtype::f32;
  bool transposed = false;

  constexpr any_matrix() noexcept = default;
  template <class T>
  any_matrix(const matrix_view<T>& m) noexcept
      : data(const_cast<std::remove_cv_t<T>*>(m.data)),
        rows(m.rows),
        cols(m.cols),
        stride(m.stride),
        type(dtype_of<T>),
        transposed(m.transposed) {}
  explicit operator bool() const noexcept { return data != nullptr; }
};

/// What an operation writes: no view of const elements becomes one. For an any_matrix its maker answers.
struct any_output : any_matrix {
  constexpr any_output() noexcept = default;
  constexpr explicit any_output(const any_matrix& m) noexcept : any_matrix(m) {}
  template <class T>
  any_output(const matrix_view<T>& m) noexcept : any_matrix(m) {}
  template <class T>
  any_output(const matrix_view<const T>& m) = delete;
};

/// The rows of one sample in a matrix whose rows are tokens. Padded batches have rows == the padded length
/// and keys == the real one; packed batches have as many keys as rows.
struct sequence {
  index first_row = 0;
  std::int32_t rows = 0;     // tokens of this sample in the matrix, padding included
  std::int32_t keys = -1;    // tokens that may be attended to: the first `keys` rows; -1: all of them
  std::uint32_t sample = 0;  // number of the sample in the global batch: what dropout is keyed by

  constexpr std::int32_t key_count() const noexcept { return keys == -1 ? rows : keys; }
};

EINKORN_END_NAMESPACE
