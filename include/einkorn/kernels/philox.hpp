/// Philox4x32-10 in vectors, and the keep-or-drop bits that dropout makes of it.
///
/// vpmuludq multiplies words that stand in 64-bit lanes. AVX-512 leaves them there, a block a lane: what is
/// in the upper half of a lane never matters, and a round is 2 products, 2 shifts and 2 three-way xors. Below
/// it the words of a vector stand side by side, are spread for a product and gathered from it: as many
/// instructions a block, since xors are not three-way there, but half as many registers. A round waits about
/// 7 cycles for itself, so several vectors run beside each other. Three counter words are the same for a
/// whole run of blocks: most of the first three rounds is scalar.
#pragma once

#include <cstring>

#include "../detail/dropout_spec.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
using vu = __m512i;
inline vu vu_set(std::uint32_t a) { return _mm512_set1_epi32(static_cast<int>(a)); }
inline vu vu_add(vu a, vu b) { return _mm512_add_epi32(a, b); }
inline vu vu_xor(vu a, vu b) { return _mm512_xor_si512(a, b); }
inline vu vu_xor(vu a, vu b, vu c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
/// The halves of the products of each block's words; a is the same for all blocks.
struct wide_product {
  vu high, low;
};
inline wide_product vu_multiply(vu a, vu b) {
  const vu product = _mm512_mul_epu32(a, b);
  return {_mm512_srli_epi64(product, 32), product};
}
// Lane 2k + r holds block 4r + k, so that the two vectors of 16-bit elements come out in order.
inline vu vu_lane_blocks() { return _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7); }
inline constexpr int philox_lanes = 8, philox_chains = 4;
/// One bit an element, a byte a block: bits >= threshold, of the words w0..w3 of each block.
inline void store_keep_bits(std::uint8_t* bits, vu w0, vu w1, vu w2, vu w3, std::uint32_t threshold) {
  const __m512i t = _mm512_set1_epi16(static_cast<short>(threshold));
  const __m512i w01 = _mm512_mask_shuffle_epi32(w0, 0xaaaa, w1, _MM_PERM_CCAA);
  const __m512i w23 = _mm512_mask_shuffle_epi32(w2, 0xaaaa, w3, _MM_PERM_CCAA);
  const std::uint32_t low = _mm512_cmpge_epu16_mask(_mm512_unpacklo_epi64(w01, w23), t);
  const std::uint32_t high = _mm512_cmpge_epu16_mask(_mm512_unpackhi_epi64(w01, w23), t);
  std::memcpy(bits, &low, 4);
  std::memcpy(bits + 4, &high, 4);
}
/// Bit b of split_bytes bytes becomes the bits of out[b * stride], for each b.
inline constexpr int split_bytes = 64;
inline void split_bits(const std::uint8_t* bytes, std::uint8_t* out, index stride) {
  const __m512i x = _mm512_loadu_si512(bytes);
#pragma GCC unroll 8
  for (int b = 0; b < 8; ++b) {
    const std::uint64_t bits = _mm512_movepi8_mask(_mm512_slli_epi16(x, static_cast<unsigned>(7 - b)));
    std::memcpy(out + b * stride, &bits, sizeof bits);
  }
}
#elif EINKORN_LEVEL_AT_LEAST_AVX2
using vu = __m256i;
inline vu vu_set(std::uint32_t a) { return _mm256_set1_epi32(static_cast<int>(a)); }
inline vu vu_add(vu a, vu b) { return _mm256_add_epi32(a, b); }
inline vu vu_xor(vu a, vu b) { return _mm256_xor_si256(a, b); }
inline vu vu_xor(vu a, vu b, vu c) { return _mm256_xor_si256(a, _mm256_xor_si256(b, c)); }
struct wide_product {
  vu high, low;
};
inline wide_product vu_multiply(vu a, vu b) {
  const __m256 first = _mm256_castsi256_ps(_mm256_mul_epu32(a, _mm256_unpacklo_epi32(b, b)));
  const __m256 second = _mm256_castsi256_ps(_mm256_mul_epu32(a, _mm256_unpackhi_epi32(b, b)));
  return {_mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xdd)),
          _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88))};
}
inline vu vu_lane_blocks() { return _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7); }
inline constexpr int philox_lanes = 8, philox_chains = 3;
inline void store_keep_bits(std::uint8_t* bits, vu w0, vu w1, vu w2, vu w3, std::uint32_t threshold) {
  const __m256i t = _mm256_set1_epi16(static_cast<short>(threshold));
  const auto keep = [&](vu w) { return _mm256_cmpeq_epi16(_mm256_max_epu16(w, t), w); };
  const __m256i w02 = _mm256_packs_epi16(keep(w0), keep(w2)), w13 = _mm256_packs_epi16(keep(w1), keep(w3));
  const __m256i w01 = _mm256_unpacklo_epi16(w02, w13), w23 = _mm256_unpackhi_epi16(w02, w13);
  const int first = _mm256_movemask_epi8(_mm256_unpacklo_epi32(w01, w23));
  const int second = _mm256_movemask_epi8(_mm256_unpackhi_epi32(w01, w23));
  std::memcpy(bits, &first, 4);
  std::memcpy(bits + 4, &second, 4);
}
inline constexpr int split_bytes = 32;
inline void split_bits(const std::uint8_t* bytes, std::uint8_t* out, index stride) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  for (int b = 0; b < 8; ++b) {
    const int bits = _mm256_movemask_epi8(_mm256_slli_epi16(x, 7 - b));
    std::memcpy(out + b * stride, &bits, sizeof bits);
  }
}
#else
using vu = __m128i;
inline vu vu_set(std::uint32_t a) { return _mm_set1_epi32(static_cast<int>(a)); }
inline vu vu_add(vu a, vu b) { return _mm_add_epi32(a, b); }
inline vu vu_xor(vu a, vu b) { return _mm_xor_si128(a, b); }
inline vu vu_xor(vu a, vu b, vu c) { return _mm_xor_si128(a, _mm_xor_si128(b, c)); }
struct wide_product {
  vu high, low;
};
inline wide_product vu_multiply(vu a, vu b) {
  const __m128 first = _mm_castsi128_ps(_mm_mul_epu32(a, _mm_unpacklo_epi32(b, b)));
  const __m128 second = _mm_castsi128_ps(_mm_mul_epu32(a, _mm_unpackhi_epi32(b, b)));
  return {_mm_castps_si128(_mm_shuffle_ps(first, second, 0xdd)),
          _mm_castps_si128(_mm_shuffle_ps(first, second, 0x88))};
}
inline vu vu_lane_blocks() { return _mm_setr_epi32(0, 1, 2, 3); }
inline constexpr int philox_lanes = 4, philox_chains = 2;
inline void store_keep_bits(std::uint8_t* bits, vu w0, vu w1, vu w2, vu w3, std::uint32_t threshold) {
  const __m128i t = _mm_set1_epi16(static_cast<short>(threshold));
  // SSE2 compares no unsigned words: threshold - bits saturates to 0 exactly where bits >= threshold.
  const auto keep = [&](vu w) { return _mm_cmpeq_epi16(_mm_subs_epu16(t, w), _mm_setzero_si128()); };
  const __m128i w02 = _mm_packs_epi16(keep(w0), keep(w2)), w13 = _mm_packs_epi16(keep(w1), keep(w3));
  const __m128i w01 = _mm_unpacklo_epi16(w02, w13), w23 = _mm_unpackhi_epi16(w02, w13);
  const int first = _mm_movemask_epi8(_mm_unpacklo_epi32(w01, w23));
  const int second = _mm_movemask_epi8(_mm_unpackhi_epi32(w01, w23));
  std::memcpy(bits, &first, 2);
  std::memcpy(bits + 2, &second, 2);
}
inline constexpr int split_bytes = 16;
inline void split_bits(const std::uint8_t* bytes, std::uint8_t* out, index stride) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  for (int b = 0; b < 8; ++b) {
    const int bits = _mm_movemask_epi8(_mm_slli_epi16(x, 7 - b));
    std::memcpy(out + b * stride, &bits, 2);
  }
}
#endif

/// The random bits of one dropout site and sample. Cheap to make: about 30 scalar operations.
class dropout_stream {
 public:
  /// p == 0 of dropout_spec is threshold 0: everything is kept.
  dropout_stream(std::uint64_t seed, std::uint32_t step, std::uint32_t site, std::uint32_t sample,
                 std::uint32_t threshold)
      : threshold_(threshold) {
    std::uint32_t k0[10], k1[10];
    for (std::uint32_t round = 0; round < 10; ++round) {
      k0[round] = static_cast<std::uint32_t>(seed) + round * 0x9e3779b9u;
      k1[round] = static_cast<std::uint32_t>(seed >> 32) + round * 0xbb67ae85u;
    }
    // Round 1: only word 2 depends on the block. Round 2: words 0 and 1 do. Round 3: all but word 1.
    const product step_0 = multiply(m0, step), sample_1 = multiply(m1, sample);
    a2_ = step_0.high ^ k1[0];
    const product second_0 = multiply(m0, sample_1.high ^ site ^ k0[0]);
    b0_ = sample_1.low ^ k0[1];
    const product third_1 = multiply(m1, second_0.high ^ step_0.low ^ k1[1]);
    c0_ = third_1.high ^ k0[2];
    c2_ = second_0.low ^ k1[2];
    d0_ = third_1.low ^ k0[3];
    d2_ = k1[3];
    std::memcpy(k0_, k0 + 4, sizeof k0_);
    std::memcpy(k1_, k1 + 4, sizeof k1_);
  }

  /// How many bytes keep_bits may write for `count` elements, and keep_factors read, whatever `first` is.
  static constexpr index bits_size(index count) { return count / 8 + 16; }

  /// For the elements [first, first + count): bit first % 8 + i of `bits`, counted from the lowest of the
  /// first byte, says whether element first + i is kept. One byte a block of 8 elements.
  void keep_bits(index first, index count, std::uint8_t* bits) const {
    if (count > 0) keep_blocks(first / 8, 1, (first + count - 1) / 8 - first / 8 + 1, bits);
  }

  /// The bytes of the blocks of 8 elements first, first + step, first + 2 * step ...; bits_size(8 * count)
  /// bytes may be written.
  void keep_blocks(index first, index step, index count, std::uint8_t* bits) const {
    const auto stride = static_cast<std::uint32_t>(step);
    auto block = static_cast<std::uint32_t>(first);
    const shared_vectors shared(*this, stride);
    constexpr int most = philox_chains * philox_lanes;
    for (; count >= most; count -= most, block += most * stride, bits += most)
      run<philox_chains>(block, stride, shared, bits);
    for (; count > philox_lanes;
         count -= 2 * philox_lanes, block += 2 * philox_lanes * stride, bits += 2 * philox_lanes)
      run<2>(block, stride, shared, bits);
    if (count > 0) run<1>(block, stride, shared, bits);
  }

  /// The mask of a block of a matrix, transposed: bit i % 8 of out[j * stride + i / 8] says whether element
  /// first + i * step + j is kept, for i < rows <= column_rows. first and step are multiples of 8; cols is
  /// rounded up to one, and each row of out has room for split_bytes / 8 bytes more than it needs.
  static constexpr index column_rows = 512;
  void keep_columns(index first, index step, index rows, index cols, std::uint8_t* out, index stride) const {
    std::uint8_t bytes[bits_size(8 * column_rows)];
    for (index j = 0; j < cols; j += 8) {
      keep_blocks((first + j) / 8, step / 8, rows, bytes);
      for (index i = 0; i < rows; i += split_bytes) split_bits(bytes + i, out + j * stride + i / 8, stride);
    }
  }

 private:
  static constexpr std::uint32_t m0 = 0xd2511f53u, m1 = 0xcd9e8d57u;
  struct product {
    std::uint32_t high, low;
  };
  static product multiply(std::uint32_t a, std::uint32_t b) {
    const std::uint64_t wide = std::uint64_t{a} * b;
    return {static_cast<std::uint32_t>(wide >> 32), static_cast<std::uint32_t>(wide)};
  }

  /// What all blocks of a call share, spread over the lanes: in memory, where it costs no register.
  struct shared_vectors {
    vu places, k0[6], k1[6];
    shared_vectors(const dropout_stream& s, std::uint32_t step)
        : places(vu_multiply(vu_set(step), vu_lane_blocks()).low) {
      for (int round = 0; round < 6; ++round) {
        k0[round] = vu_set(s.k0_[round]);
        k1[round] = vu_set(s.k1_[round]);
      }
    }
  };

  template <int Chains>
  void run(std::uint32_t block, std::uint32_t step, const shared_vectors& shared, std::uint8_t* bits) const {
    const vu m0_u32 = vu_set(m0), m1_u32 = vu_set(m1);
    vu w0[Chains], w1[Chains], w2[Chains], w3[Chains];
#pragma GCC unroll 4
    for (int i = 0; i < Chains; ++i) {
      const vu counter =
          vu_add(vu_set(block + static_cast<std::uint32_t>(i * philox_lanes) * step), shared.places);
      const wide_product q1 = vu_multiply(m1_u32, vu_xor(counter, vu_set(a2_)));  // round 2
      const wide_product r0 = vu_multiply(m0_u32, vu_xor(q1.high, vu_set(b0_)));  // round 3
      const wide_product s0 = vu_multiply(m0_u32, vu_xor(q1.low, vu_set(c0_)));   // round 4
      const wide_product s1 = vu_multiply(m1_u32, vu_xor(r0.high, vu_set(c2_)));
      w0[i] = vu_xor(s1.high, vu_set(d0_));
      w1[i] = s1.low;
      w2[i] = vu_xor(s0.high, r0.low, vu_set(d2_));
      w3[i] = s0.low;
    }
#pragma GCC unroll 6
    for (int round = 0; round < 6; ++round) {
#pragma GCC unroll 4
      for (int i = 0; i < Chains; ++i) {
        const wide_product p0 = vu_multiply(m0_u32, w0[i]), p1 = vu_multiply(m1_u32, w2[i]);
        w0[i] = vu_xor(p1.high, w1[i], shared.k0[round]);
        w2[i] = vu_xor(p0.high, w3[i], shared.k1[round]);
        w1[i] = p1.low;
        w3[i] = p0.low;
#if !EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
        // Else g++ puts products off into later rounds, and has no registers for what they wait for.
        asm("" : "+x"(w0[i]), "+x"(w1[i]), "+x"(w2[i]), "+x"(w3[i]));
#endif
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < Chains; ++i)
      store_keep_bits(bits + i * philox_lanes, w0[i], w1[i], w2[i], w3[i], threshold_);
  }

  std::uint32_t threshold_;
  std::uint32_t a2_, b0_, c0_, c2_, d0_, d2_;  // what rounds 1 to 4 add besides the block
  std::uint32_t k0_[6], k1_[6];                // keys of rounds 5 to 10
};

/// `scale` in the lanes whose element is kept, 0 in the others: the bits [position + i, position + i +
/// vf_size), where position is the same for a whole row and i a multiple of vf_size.
inline vf keep_factors(const std::uint8_t* bits, index position, index i, vf scale) {
  std::uint32_t word;
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  std::memcpy(&word, bits + (position + i) / 8, 4);
  return _mm512_maskz_mov_ps(static_cast<__mmask16>(word >> (position + i) % 8), scale);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  // The lanes' bits are shifted, once a row, and not the word, which then needs no general register.
  const __m256i lane_bit =
      _mm256_slli_epi32(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), static_cast<int>(position % 8));
  std::memcpy(&word, bits + (position / 8 + i / 8), 4);
  const __m256i own = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(word)), lane_bit);
  return _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(own, lane_bit)), scale);
#else
  std::memcpy(&word, bits + (position + i) / 8, 4);
  const __m128i lane_bit = _mm_setr_epi32(1, 2, 4, 8);
  const __m128i own = _mm_and_si128(_mm_set1_epi32(static_cast<int>(word >> (position + i) % 8)), lane_bit);
  return _mm_and_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(own, lane_bit)), scale);
#endif
}

/// Walks over the rows of a matrix in order and knows each row's sample and place in it.
class dropout_rows {
 public:
  dropout_rows(const dropout_spec& spec, index cols, index first_row)
      : spec_(spec), cols_(cols), threshold_(detail::dropout_threshold(spec.p)), stream_(0, 0, 0, 0, 0) {
    const index count = static_cast<index>(spec.sequences.size());
    index low = 0, high = count;  // the last sequence that starts at or before first_row and has rows
    while (high - low > 1) {
      const index middle = (low + high) / 2;
      (spec.sequences[static_cast<std::size_t>(middle)].first_row <= first_row ? low : high) = middle;
    }
    current_ = low;
    enter();
  }

  bool drops() const { return threshold_ != 0; }
  float scale() const { return detail::dropout_scale(threshold_); }

  /// Rows must not go backwards. The bits of columns [first_col, first_col + count) of the row; returns the
  /// position of first_col's bit.
  index keep_bits(index row, index first_col, index count, std::uint8_t* bits) {
    while (row >= end_) {
      ++current_;
      enter();
    }
    const index element = (row - begin_) * cols_ + first_col;
    stream_.keep_bits(element, count, bits);
    return element % 8;
  }

 private:
  void enter() {
    std::uint32_t sample = 0;
    begin_ = 0;
    end_ = index{1} << 62;
    if (!spec_.sequences.empty()) {
      const sequence& s = spec_.sequences[static_cast<std::size_t>(current_)];
      begin_ = s.first_row;
      end_ = s.first_row + s.rows;
      sample = s.sample;
    }
    stream_ = dropout_stream(spec_.seed, spec_.step, spec_.site, sample, threshold_);
  }

  const dropout_spec& spec_;
  index cols_, current_ = 0, begin_ = 0, end_ = 0;
  std::uint32_t threshold_;
  dropout_stream stream_;
};

EINKORN_END_LEVEL
