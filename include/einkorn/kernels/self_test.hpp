/// A few numbers through the level's own instructions, before the level is trusted.
#pragma once

#include "../types.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

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
  return reduce_add(sum) == 240.0f && reduce_add(difference) == 0.0f;
}

EINKORN_END_LEVEL
