/// Which elements dropout drops: a pure function of these numbers and the element's place in its sample.
#pragma once

#include <span>
#include <string>

#include "../error.hpp"
#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE

/// Philox4x32-10 (Salmon et al., 2011) with the key `seed` and the counter words (step, site, number of the
/// sample in the global batch, index / 8), where index = position in the sample * cols + column. A block of
/// 128 bits serves 8 elements of 16 bits; an element is dropped where its bits < t = round(65536 p), and a
/// kept one is multiplied by 65536 / (65536 - t). So the mask depends on no padding, packing, micro-batch,
/// thread or ISA level, and backward computes it again.
struct dropout_spec {
  float p = 0;                               // in [0, 1); 0 keeps everything
  std::uint64_t seed = 0;                    // of the training run
  std::uint32_t step = 0;                    // of the optimizer
  std::uint32_t site = 0;                    // which dropout of the model
  std::span<const sequence> sequences = {};  // cover all rows in order; empty: all rows are sample 0
};

namespace detail {

inline void require_probability(const char* function, float p) {
  if (!(p >= 0 && p < 1)) [[unlikely]]
    fail(std::string(function) + ": dropout probability " + shown(p) + " is not in [0, 1)");
}

/// t of dropout_spec; never 65536, so that the scale stays finite.
constexpr std::uint32_t dropout_threshold(float p) noexcept {
  const auto t = static_cast<std::uint32_t>(static_cast<double>(p) * 65536 + 0.5);
  return t < 65535 ? t : 65535;
}
constexpr float dropout_scale(std::uint32_t threshold) noexcept {
  return 65536.0f / static_cast<float>(65536 - threshold);
}

/// The probability, and the sequences one after the other over all rows.
inline void require_dropout(const char* function, const dropout_spec& spec, index rows, index cols) {
  require_probability(function, spec.p);
  constexpr index most = index{1} << 35;  // index / 8 is a counter word of 32 bits
  const auto require_numbers = [&](index sample_rows) {
    if (spec.p > 0 && cols > 0 && sample_rows > most / cols) [[unlikely]]
      fail(std::string(function) + ": " + std::to_string(sample_rows) + " x " + std::to_string(cols) +
           " elements in a sample, dropout can number 2^35");
  };
  index next = 0;
  for (std::size_t i = 0; i < spec.sequences.size(); ++i) {
    const sequence& s = spec.sequences[i];
    if (s.first_row != next || s.rows < 0) [[unlikely]]
      fail(std::string(function) + ": sequences[" + std::to_string(i) + "] has first_row " +
           std::to_string(s.first_row) + " and " + std::to_string(s.rows) + " rows, expected first_row " +
           std::to_string(next));
    require_numbers(s.rows);
    next += s.rows;
  }
  if (spec.sequences.empty())
    require_numbers(rows);
  else
    require_equal(function, "rows of the sequences", next, "rows", rows);
}

}  // namespace detail

EINKORN_END_NAMESPACE
