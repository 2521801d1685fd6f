/// A few numbers through the level's own instructions, before the level is trusted.
#pragma once

#include "../types.hpp"
#include "simd.hpp"
#if EINKORN_LEVEL_AT_LEAST_AMX
#include "amx.hpp"
#endif

EINKORN_BEGIN_LEVEL

#if EINKORN_LEVEL_AT_LEAST_AMX
/// One full tile product of bf16 and one of s8, of numbers small enough to be exact: A(m, k) = m - k, and
/// B(k, n) = k - 2n, in pairs or quadruples along k.
inline bool tile_self_test() {
  constexpr int size = 16, depth = 8;
  alignas(64) bf16 a[size][depth], b[depth / 2][size][2];
  alignas(64) signed char a8[size][2 * depth], b8[depth / 2][size][4];
  alignas(64) float c[size][size];
  alignas(64) std::int32_t c8[size][size];
  for (int i = 0; i < size; ++i) {
    for (int k = 0; k < depth; ++k) {
      a[i][k] = bf16(static_cast<float>(i - k));
      b[k / 2][i][k % 2] = bf16(static_cast<float>(k - 2 * i));
    }
    for (int k = 0; k < 2 * depth; ++k) {
      a8[i][k] = static_cast<signed char>(i - k);
      b8[k / 4][i][k % 4] = static_cast<signed char>(k - 2 * i);
    }
  }
  {
    amx::tile_config config;
    config.set(0, size, 64).set(1, size, 2 * depth).set(2, depth / 2, 64).set(3, size, 64);
    const amx::tile_scope tiles(config);
    amx::zero<0>();
    amx::load<1>(a, 2 * depth);
    amx::load<2>(b, 64);
    amx::tdpbf16ps<0, 1, 2>();
    amx::store<0>(c, 64);
    amx::zero<3>();
    amx::load<1>(a8, 2 * depth);
    amx::load<2>(b8, 64);
    amx::tdpbssd<3, 1, 2>();
    amx::store<3>(c8, 64);
  }
  bool right = true;
  for (int m = 0; m < size; ++m)
    for (int n = 0; n < size; ++n) {
      int sum = 0, sum8 = 0;
      for (int k = 0; k < depth; ++k) sum += (m - k) * (k - 2 * n);
      for (int k = 0; k < 2 * depth; ++k) sum8 += (m - k) * (k - 2 * n);
      right = right && c[m][n] == static_cast<float>(sum) && c8[m][n] == sum8;
    }
  return right;
}
#endif

/// 2 * (0 + 1 + ... + 15) = 240 by vectors, and the numbers back from bf16 and fp16: exact in all of them.
inline bool self_test() {
  float numbers[16];
  bf16 brief[16];
  fp16 half[16];
  for (int i = 0; i < 16; ++i) numbers[i] = static_cast<float>(i);
  vf sum = broadcast(0.0f), difference = broadcast(0.0f);
  for (int i = 0; i < 16; i += vf_size) {
    const vf x = load(numbers + i);
    store(brief + i, x);
    store(half + i, x);
    sum = fma(broadcast(2.0f), x, sum);
    difference += load(brief + i) - load(half + i);
  }
  bool right = reduce_add(sum) == 240.0f && reduce_add(difference) == 0.0f;
#if EINKORN_LEVEL_AT_LEAST_AMX
  right = right && tile_self_test();
#endif
  return right;
}

EINKORN_END_LEVEL
