/// Philox4x32-10 and dropout's mask, one element at a time.
///
/// Dropout + residual + layer normalisation is dropout_factor here and reference/layernorm.hpp.
#pragma once

#include <array>

#include "../detail/dropout_spec.hpp"

EINKORN_BEGIN_NAMESPACE
namespace reference {

using philox_block = std::array<std::uint32_t, 4>;

/// J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers, as easy as 1, 2, 3 (2011).
constexpr philox_block philox4x32_10(philox_block counter, std::array<std::uint32_t, 2> key) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product_0 = std::uint64_t{0xd2511f53u} * counter[0];
    const std::uint64_t product_1 = std::uint64_t{0xcd9e8d57u} * counter[2];
    counter = {static_cast<std::uint32_t>(product_1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product_1),
               static_cast<std::uint32_t>(product_0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product_0)};
    key = {key[0] + 0x9e3779b9u, key[1] + 0xbb67ae85u};
  }
  return counter;
}

/// The 16 bits of element `element` of a sample.
constexpr std::uint32_t dropout_bits(const dropout_spec& spec, std::uint32_t sample, index element) noexcept {
  const philox_block block =
      philox4x32_10({spec.step, spec.site, sample, static_cast<std::uint32_t>(element / 8)},
                    {static_cast<std::uint32_t>(spec.seed), static_cast<std::uint32_t>(spec.seed >> 32)});
  const auto e = static_cast<std::uint32_t>(element % 8);
  return block[e / 2] >> (e % 2 * 16) & 0xffffu;
}

/// 0, or what a kept element is multiplied by.
constexpr double dropout_factor(const dropout_spec& spec, std::uint32_t sample, index element) noexcept {
  const std::uint32_t threshold = detail::dropout_threshold(spec.p);
  return dropout_bits(spec, sample, element) < threshold ? 0.0 : 65536.0 / (65536.0 - threshold);
}

/// The same for an element of a matrix whose rows are tokens.
inline double dropout_factor(const dropout_spec& spec, index row, index col, index cols) noexcept {
  if (spec.sequences.empty()) return dropout_factor(spec, 0, row * cols + col);
  for (const sequence& s : spec.sequences)
    if (row >= s.first_row && row < s.first_row + s.rows)
      return dropout_factor(spec, s.sample, (row - s.first_row) * cols + col);
  return 1;
}

}  // namespace reference
EINKORN_END_NAMESPACE
