/// GEMM on tiles of AMX: 32 x 32 of C in tmm0 to tmm3, 32 rows of A in tmm4 and tmm5, 32 columns of B in tmm6
/// and tmm7. A step of 16 k-groups (32 bf16 or fp16, 64 bytes) loads 4 tiles for 4 products; the loads of the
/// next step run ahead of them out of order.
///
/// A is read where it lies, at any stride between its rows; B in the panels that the vector kernels use too,
/// a k-group of 32 columns a row. The last rows and the last k-groups are tiles of fewer rows, so nothing is
/// padded along them and nothing outside is read.
#pragma once

#include "gemm_tile.hpp"

#if EINKORN_LEVEL_AT_LEAST_AMX

#include "amx.hpp"
#include "gemm_avx512.hpp"

EINKORN_BEGIN_LEVEL

/// A micro-kernel (see gemm_driver.hpp) from one tile product.
template <class Product>
struct gemm_amx_kernel {
  using element = typename Product::element;
  using accumulator = typename Product::accumulator;
  using instruction = typename Product::instruction;
  using args = gemm_tile_args<accumulator>;
  static constexpr int mr = 32, nr = 32, lanes = 16;
  static constexpr int k_group = 4 / static_cast<int>(sizeof(element)), k_step = k_group;
  static constexpr bool flips_s8 = false, a_panels = false, converts = false, masks = false;
  static constexpr int half = 16, block = 16;  // rows or columns of a tile; k-groups of a step

  /// Tiles for `rows` of C and `groups` of depth.
  static amx::tile_config config(int rows, index groups) {
    amx::tile_config tiles;
    const int upper = rows < half ? rows : half, lower = rows - upper;
    tiles.set(0, upper, 64).set(1, upper, 64).set(4, upper, 4 * groups);
    if (lower > 0) tiles.set(2, lower, 64).set(3, lower, 64).set(5, lower, 4 * groups);
    return tiles.set(6, groups, 64).set(7, groups, 64);
  }

  /// Holds the tiles of a task, set for the full size; run() leaves them so.
  struct session {
    amx::tile_scope tiles{config(mr, block)};
  };

  static void run(int rows, int cols, const args& t) {
    if (rows > half)
      cols > half ? run_tiles<true, true>(rows, t) : run_tiles<true, false>(rows, t);
    else
      cols > half ? run_tiles<false, true>(rows, t) : run_tiles<false, false>(rows, t);
  }

 private:
  template <bool TwoRows, bool TwoCols>
  static void run_tiles(int rows, const args& t) {
    // Copies: the tile instructions clobber memory, and t would be read again at each step.
    const index steps = t.groups / block, rest = t.groups % block;
    const index a_stride = t.a_stride, b_stride = t.b_stride, b_step = block * b_stride;
    const char *a = t.a, *lower_a = a + half * a_stride, *b = t.b;
    // What is added to acc is summed from zero first, as by every other kernel.
    alignas(64) accumulator product[mr * nr];
    accumulator* const out = t.accumulate ? product : t.acc;
    const index stride = t.accumulate ? nr : t.acc_stride;
    if (rows != mr) amx::load_config(config(rows, block));
    begin<TwoRows, TwoCols>(t.initial);
    for (index step = steps; step > 0; --step) {
      multiply<TwoRows, TwoCols>(a, lower_a, a_stride, b, b_stride);
      a += 4 * block;
      lower_a += 4 * block;
      b += b_step;
    }
    end<TwoRows, TwoCols>(out, stride);
    if (rest > 0) {  // a new configuration clears the tiles, so the sums go through memory
      amx::load_config(config(rows, rest));
      load_sums<TwoRows, TwoCols>(out, stride);
      multiply<TwoRows, TwoCols>(a, lower_a, a_stride, b, b_stride);
      end<TwoRows, TwoCols>(out, stride);
    }
    if (rows != mr || rest > 0) amx::load_config(config(mr, block));
    if (t.accumulate)
      for (index row = 0; row < rows; ++row)
        for (index col = 0; col < (TwoCols ? nr : half); col += lanes)
          add(t.acc + row * t.acc_stride + col, product + row * nr + col);
  }

  template <bool TwoRows, bool TwoCols>
  [[gnu::always_inline]] static void multiply(const char* a, const char* lower_a, index a_stride,
                                              const char* b, index b_stride) {
    amx::load<6>(b, b_stride);
    amx::load<4>(a, a_stride);
    if constexpr (TwoCols) amx::load<7, 64>(b, b_stride);
    if constexpr (TwoRows) amx::load<5>(lower_a, a_stride);
    Product::template multiply<0, 4, 6>();
    if constexpr (TwoCols) Product::template multiply<1, 4, 7>();
    if constexpr (TwoRows) Product::template multiply<2, 5, 6>();
    if constexpr (TwoRows && TwoCols) Product::template multiply<3, 5, 7>();
  }

  template <bool TwoRows, bool TwoCols>
  static void begin(const accumulator* initial) {
    if (initial != nullptr) {  // a stride of 0 gives every row of a tile the same numbers
      load_sums<TwoRows, TwoCols>(initial, 0);
    } else {
      amx::zero<0>();
      if constexpr (TwoCols) amx::zero<1>();
      if constexpr (TwoRows) amx::zero<2>();
      if constexpr (TwoRows && TwoCols) amx::zero<3>();
    }
  }

  template <bool TwoRows, bool TwoCols>
  static void load_sums(const accumulator* from, index stride) {
    amx::load<0>(from, 4 * stride);
    if constexpr (TwoCols) amx::load<1>(from + half, 4 * stride);
    if constexpr (TwoRows) amx::load<2>(from + half * stride, 4 * stride);
    if constexpr (TwoRows && TwoCols) amx::load<3>(from + half * stride + half, 4 * stride);
  }

  template <bool TwoRows, bool TwoCols>
  static void end(accumulator* to, index stride) {
    amx::store<0>(to, 4 * stride);
    if constexpr (TwoCols) amx::store<1>(to + half, 4 * stride);
    if constexpr (TwoRows) amx::store<2>(to + half * stride, 4 * stride);
    if constexpr (TwoRows && TwoCols) amx::store<3>(to + half * stride + half, 4 * stride);
  }

  static void add(float* to, const float* from) {
    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_load_ps(from), _mm512_loadu_ps(to)));
  }
  static void add(std::int32_t* to, const std::int32_t* from) {
    _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_load_si512(from), _mm512_loadu_si512(to)));
  }
};

/// Even and odd products summed apart, denormals taken as zero.
struct tdpbf16ps_tiles {
  using instruction = vdpbf16ps_x16;
  using element = bf16;
  using accumulator = float;
  template <int D, int A, int B>
  static void multiply() {
    amx::tdpbf16ps<D, A, B>();
  }
};

/// Only where the CPU has AMX-FP16; fp16's denormals count in full.
struct tdpfp16ps_tiles {
  using instruction = void;
  using element = fp16;
  using accumulator = float;
  template <int D, int A, int B>
  static void multiply() {
    amx::tdpfp16ps<D, A, B>();
  }
};

struct tdpbusd_tiles {
  using instruction = vpdpbusd_x16;
  using element = std::int8_t;
  using accumulator = std::int32_t;
  template <int D, int A, int B>
  static void multiply() {
    amx::tdpbusd<D, A, B>();
  }
};

struct tdpbssd_tiles {
  using instruction = void;
  using element = std::int8_t;
  using accumulator = std::int32_t;
  template <int D, int A, int B>
  static void multiply() {
    amx::tdpbssd<D, A, B>();
  }
};

using gemm_bf16_tiles = gemm_amx_kernel<tdpbf16ps_tiles>;
using gemm_fp16_tiles = gemm_amx_kernel<tdpfp16ps_tiles>;
using gemm_u8_tiles = gemm_amx_kernel<tdpbusd_tiles>;
using gemm_s8_tiles = gemm_amx_kernel<tdpbssd_tiles>;

EINKORN_END_LEVEL

#endif
