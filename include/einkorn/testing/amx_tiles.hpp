/// The state of AMX's tiles and the effect of each instruction on it, in plain code: palette 1, eight tiles
/// of at most 16 rows x 64 bytes. Source: Intel's Software Developer's Manual, volume 2, the "Operation" of
/// each instruction and the exception classes AMX-E1 to AMX-E6.
///
/// Every instruction returns what the hardware would raise; the state is untouched unless that is `none`.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../config.hpp"

EINKORN_BEGIN_NAMESPACE
namespace testing {

/// What an instruction raises: nothing, #UD (Linux: SIGILL) or #GP (Linux: SIGSEGV), and the reason in words.
struct amx_fault {
  enum class kind { none, undefined, protection };
  kind raised = kind::none;
  const char* reason = "";
  explicit operator bool() const { return raised != kind::none; }
};

/// How the four bytes of a dword are read: TDPB + (A's sign)(B's sign) + D.
enum class amx_bytes { ss, su, us, uu };

namespace detail {

inline float amx_bits_to_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// Exact for every input, denormals included: fp16's smallest, 2^-24, is an ordinary f32.
inline float amx_half_to_float(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16, exponent = (half >> 10) & 31u;
  std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31)  // a signalling NaN becomes quiet, as in VCVTPH2PS
    return amx_bits_to_float(sign | 0x7f800000u | (mantissa ? 0x400000u | mantissa << 13 : 0));
  if (exponent != 0) return amx_bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
  if (mantissa == 0) return amx_bits_to_float(sign);
  std::uint32_t shift = 0;
  for (; !(mantissa & 0x400u); ++shift) mantissa <<= 1;
  return amx_bits_to_float(sign | (113 - shift) << 23 | (mantissa & 0x3ffu) << 13);
}

/// f32 operands of one product: a[row][parity][k], b[k][parity][col]. Even and odd elements lie apart since
/// they are summed apart.
struct amx_float_operands {
  alignas(64) float a[16][2][16];
  alignas(64) float b[16][2][16];
  alignas(64) float c[16][16];
};

// The products run under the MXCSR of the manual: denormals are zero on the way in and on the way out,
// nearest even, nothing trapped. They are never inlined, since compilers move arithmetic across LDMXCSR.

/// Sums by one FMA after the other from +0, then even + odd, then C + that.
[[gnu::noinline]] inline void amx_float_product_scalar(amx_float_operands& x, int rows, int depth) {
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < 16; ++n) {
      float sum[2] = {0, 0};
      for (int k = 0; k < depth; ++k)
        for (int p = 0; p < 2; ++p) sum[p] = std::fma(x.a[m][p][k], x.b[k][p][n], sum[p]);
      const float both = sum[0] + sum[1];
      x.c[m][n] = x.c[m][n] + both;
    }
}

/// The same bits, 8 columns at a time.
[[gnu::noinline, gnu::target("avx2,fma")]] inline void amx_float_product_avx2(amx_float_operands& x, int rows,
                                                                              int depth) {
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < 16; n += 8) {
      __m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
      for (int k = 0; k < depth; ++k) {
        even = _mm256_fmadd_ps(_mm256_set1_ps(x.a[m][0][k]), _mm256_load_ps(&x.b[k][0][n]), even);
        odd = _mm256_fmadd_ps(_mm256_set1_ps(x.a[m][1][k]), _mm256_load_ps(&x.b[k][1][n]), odd);
      }
      _mm256_store_ps(&x.c[m][n], _mm256_add_ps(_mm256_load_ps(&x.c[m][n]), _mm256_add_ps(even, odd)));
    }
}

inline bool amx_host_has_fma() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
}

inline void amx_float_product(amx_float_operands& x, int rows, int depth, bool vectors) {
  const unsigned caller = _mm_getcsr();
  _mm_setcsr(0x9fc0);  // all exceptions masked, DAZ and FTZ, nearest even
  (vectors ? amx_float_product_avx2 : amx_float_product_scalar)(x, rows, depth);
  _mm_setcsr(caller);
}

/// Bytes 0 and 2 of each dword as 16-bit numbers.
[[gnu::target("avx2")]] inline __m256i amx_even_bytes(__m256i x, bool is_signed) {
  const __m256i high = _mm256_slli_epi16(x, 8);
  return is_signed ? _mm256_srai_epi16(high, 8) : _mm256_srli_epi16(high, 8);
}

/// Bytes 1 and 3.
[[gnu::target("avx2")]] inline __m256i amx_odd_bytes(__m256i x, bool is_signed) {
  return is_signed ? _mm256_srai_epi16(x, 8) : _mm256_srli_epi16(x, 8);
}

/// A pair of byte products fits 32 bits exactly, so the order of the sums is no matter: all wraps modulo
/// 2^32.
[[gnu::noinline, gnu::target("avx2")]] inline void amx_byte_product_avx2(const std::uint32_t (*a)[16],
                                                                         const std::uint32_t (*b)[16],
                                                                         std::uint32_t (*c)[16], int rows,
                                                                         int depth, bool a_signed,
                                                                         bool b_signed) {
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < 16; n += 8) {
      __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&c[m][n]));
      for (int k = 0; k < depth; ++k) {
        const __m256i x = _mm256_set1_epi32(static_cast<int>(a[m][k]));
        const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&b[k][n]));
        sum = _mm256_add_epi32(sum,
                               _mm256_madd_epi16(amx_even_bytes(x, a_signed), amx_even_bytes(y, b_signed)));
        sum =
            _mm256_add_epi32(sum, _mm256_madd_epi16(amx_odd_bytes(x, a_signed), amx_odd_bytes(y, b_signed)));
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(&c[m][n]), sum);
    }
}

inline void amx_byte_product_scalar(const std::uint32_t (*a)[16], const std::uint32_t (*b)[16],
                                    std::uint32_t (*c)[16], int rows, int depth, bool a_signed,
                                    bool b_signed) {
  const auto byte = [](std::uint32_t dword, int i, bool is_signed) {
    const auto bits = static_cast<std::uint8_t>(dword >> (8 * i));
    return is_signed ? static_cast<int>(static_cast<std::int8_t>(bits)) : static_cast<int>(bits);
  };
  for (int m = 0; m < rows; ++m)
    for (int k = 0; k < depth; ++k)
      for (int n = 0; n < 16; ++n)
        for (int i = 0; i < 4; ++i)
          c[m][n] += static_cast<std::uint32_t>(byte(a[m][k], i, a_signed) * byte(b[k][n], i, b_signed));
}

}  // namespace detail

/// One thread's tiles. A constant-initialised aggregate, so that it can be thread_local and be touched from a
/// signal handler.
struct amx_tiles {
  static constexpr int tile_count = 8, max_rows = 16, max_colsb = 64;

  std::uint8_t palette = 0, start_row = 0;
  std::uint16_t colsb[tile_count] = {};
  std::uint8_t rows[tile_count] = {};
  std::uint32_t data[tile_count][max_rows][max_colsb / 4] = {};
  bool scalar = false;  ///< compute products without AVX2 even where the host has it

  bool configured(int tile) const { return palette != 0 && rows[tile] != 0; }

  void release() {
    palette = start_row = 0;
    std::memset(colsb, 0, sizeof colsb);
    std::memset(rows, 0, sizeof rows);
    std::memset(data, 0, sizeof data);
  }

  /// LDTILECFG: 64 bytes; palette 0 is TILERELEASE. All tile data become zero.
  amx_fault load_config(const void* memory) {
    std::uint8_t bytes[64];
    std::memcpy(bytes, memory, sizeof bytes);
    if (bytes[0] == 0) return release(), amx_fault{};
    if (bytes[0] != 1) return protection("the palette is neither 0 nor 1");
    const auto nonzero = [&bytes](int first, int last) {
      return std::any_of(bytes + first, bytes + last + 1, [](std::uint8_t byte) { return byte != 0; });
    };
    if (nonzero(2, 15) || nonzero(32, 47) || nonzero(56, 63)) return protection("a reserved byte is not 0");
    std::uint16_t new_colsb[tile_count];
    std::memcpy(new_colsb, bytes + 16, sizeof new_colsb);
    for (int t = 0; t < tile_count; ++t) {
      if (new_colsb[t] > max_colsb) return protection("a tile has more than 64 bytes a row");
      if (bytes[48 + t] > max_rows) return protection("a tile has more than 16 rows");
      if ((new_colsb[t] == 0) != (bytes[48 + t] == 0))
        return protection("only one of a tile's rows and bytes a row is 0");
    }
    release();
    palette = 1;
    start_row = bytes[1];
    std::memcpy(colsb, new_colsb, sizeof colsb);
    std::memcpy(rows, bytes + 48, sizeof rows);
    return {};
  }

  /// STTILECFG: the configuration, or 64 zero bytes where there is none.
  void store_config(void* memory) const {
    std::uint8_t bytes[64] = {palette, start_row};
    std::memcpy(bytes + 16, colsb, sizeof colsb);
    std::memcpy(bytes + 48, rows, sizeof rows);
    std::memcpy(memory, bytes, sizeof bytes);
  }

  amx_fault zero(int tile) {
    if (!configured(tile)) return undefined("the tile is not configured");
    std::memset(data[tile], 0, sizeof data[tile]);
    start_row = 0;
    return {};
  }

  /// TILELOADD and TILELOADDT1: row r from address + r * stride; what lies beyond the configured shape is
  /// zero.
  amx_fault load(int tile, std::uint64_t address, std::uint64_t stride) {
    if (const amx_fault fault = check_memory_shape(tile)) return fault;
    for (int r = start_row; r < max_rows; ++r) {
      std::memset(data[tile][r], 0, sizeof data[tile][r]);
      if (r < rows[tile])
        std::memcpy(data[tile][r], pointer(address + static_cast<std::uint64_t>(r) * stride), colsb[tile]);
    }
    start_row = 0;
    return {};
  }

  amx_fault store(int tile, std::uint64_t address, std::uint64_t stride) {
    if (const amx_fault fault = check_memory_shape(tile)) return fault;
    for (int r = start_row; r < rows[tile]; ++r)
      std::memcpy(pointer(address + static_cast<std::uint64_t>(r) * stride), data[tile][r], colsb[tile]);
    start_row = 0;
    return {};
  }

  /// C += A * B for bf16 pairs: C rows x cols of f32, A rows x 2 depth, B depth x 2 cols (pairs along depth).
  amx_fault tdpbf16ps(int c, int a, int b) {
    return float_product(c, a, b, [](std::uint32_t dword, int parity) {
      return detail::amx_bits_to_float(parity ? dword & 0xffff0000u : dword << 16);
    });
  }

  amx_fault tdpfp16ps(int c, int a, int b) {
    return float_product(c, a, b, [](std::uint32_t dword, int parity) {
      return detail::amx_half_to_float(static_cast<std::uint16_t>(parity ? dword >> 16 : dword));
    });
  }

  amx_fault tdpb(amx_bytes signs, int c, int a, int b) {
    if (const amx_fault fault = check_product_shape(c, a, b)) return fault;
    const bool a_signed = signs == amx_bytes::ss || signs == amx_bytes::su;
    const bool b_signed = signs == amx_bytes::ss || signs == amx_bytes::us;
    (!scalar && detail::amx_host_has_fma() ? detail::amx_byte_product_avx2 : detail::amx_byte_product_scalar)(
        data[a], data[b], data[c], rows[c], rows[b], a_signed, b_signed);
    clear_outside(c);
    return {};
  }

 private:
  static amx_fault undefined(const char* reason) { return {amx_fault::kind::undefined, reason}; }
  static amx_fault protection(const char* reason) { return {amx_fault::kind::protection, reason}; }
  static void* pointer(std::uint64_t address) { return reinterpret_cast<void*>(address); }

  amx_fault check_memory_shape(int tile) const {
    if (!configured(tile)) return undefined("the tile is not configured");
    if (colsb[tile] % 4 != 0) return undefined("the tile's bytes a row are no multiple of 4");
    if (start_row >= rows[tile]) return undefined("start_row lies beyond the tile's rows");
    return {};
  }

  amx_fault check_product_shape(int c, int a, int b) const {
    if (c == a || c == b || a == b) return undefined("the three tiles are not distinct");
    for (const int tile : {c, a, b}) {
      if (!configured(tile)) return undefined("a tile is not configured");
      if (colsb[tile] % 4 != 0) return undefined("a tile's bytes a row are no multiple of 4");
    }
    if (rows[c] != rows[a]) return undefined("the destination's rows differ from the first source's");
    if (colsb[c] != colsb[b]) return undefined("the destination's columns differ from the second source's");
    if (colsb[a] / 4 != rows[b])
      return undefined("the first source's bytes a row / 4 differ from the second source's rows");
    return {};
  }

  /// The last step of every product.
  void clear_outside(int tile) {
    for (int r = 0; r < max_rows; ++r) {
      const int kept = r < rows[tile] ? colsb[tile] : 0;
      std::memset(reinterpret_cast<char*>(data[tile][r]) + kept, 0,
                  static_cast<std::size_t>(max_colsb - kept));
    }
    start_row = 0;
  }

  template <typename Widen>
  amx_fault float_product(int c, int a, int b, Widen widen) {
    if (const amx_fault fault = check_product_shape(c, a, b)) return fault;
    const int depth = rows[b];
    detail::amx_float_operands x;
    for (int m = 0; m < rows[c]; ++m)
      for (int p = 0; p < 2; ++p)
        for (int k = 0; k < depth; ++k) x.a[m][p][k] = widen(data[a][m][k], p);
    for (int k = 0; k < depth; ++k)
      for (int p = 0; p < 2; ++p)
        for (int n = 0; n < 16; ++n) x.b[k][p][n] = widen(data[b][k][n], p);
    std::memcpy(x.c, data[c], sizeof x.c);
    detail::amx_float_product(x, rows[c], depth, !scalar && detail::amx_host_has_fma());
    std::memcpy(data[c], x.c, sizeof x.c);
    clear_outside(c);
    return {};
  }
};

}  // namespace testing
EINKORN_END_NAMESPACE
