// A matrix of any element type in guarded memory, and the sizes that the row-wise tests go through.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace test {

using einkorn::any_matrix;
using einkorn::any_output;
using einkorn::dtype;

inline constexpr dtype real_types[] = {dtype::f32, dtype::bf16, dtype::fp16};

inline double eps_of_type(dtype type) {
  return type == dtype::f32 ? 0x1p-24 : type == dtype::bf16 ? 0x1p-8 : 0x1p-11;
}
inline double tiny_of_type(dtype type) { return type == dtype::fp16 ? 0x1p-25 : 0x1p-126; }

/// rows x cols of NaN; ends at a guard page, or `slack` elements before it.
class typed_matrix {
 public:
  typed_matrix(dtype type, index rows, index cols, index padding = 0, index slack = 0) : type_(type) {
    if (type == dtype::f32) f32_ = guarded_matrix<float>(rows, cols, padding, slack);
    if (type == dtype::bf16) bf16_ = guarded_matrix<einkorn::bf16>(rows, cols, padding, slack);
    if (type == dtype::fp16) fp16_ = guarded_matrix<einkorn::fp16>(rows, cols, padding, slack);
  }
  operator any_output() const {
    return type_ == dtype::f32    ? any_output(f32_.view())
           : type_ == dtype::bf16 ? any_output(bf16_.view())
                                  : any_output(fp16_.view());
  }
  dtype type() const { return type_; }
  double get(index row, index col) const {
    const any_matrix m = *this;
    const index i = row * m.stride + col;
    if (type_ == dtype::f32) return static_cast<const float*>(m.data)[i];
    if (type_ == dtype::bf16) return static_cast<float>(static_cast<const einkorn::bf16*>(m.data)[i]);
    return static_cast<float>(static_cast<const einkorn::fp16*>(m.data)[i]);
  }
  void set(index row, index col, double value) const {
    const any_matrix m = *this;
    const index i = row * m.stride + col;
    const auto brief = static_cast<float>(value);
    if (type_ == dtype::f32) static_cast<float*>(m.data)[i] = brief;
    if (type_ == dtype::bf16) static_cast<einkorn::bf16*>(m.data)[i] = einkorn::bf16(brief);
    if (type_ == dtype::fp16) static_cast<einkorn::fp16*>(m.data)[i] = einkorn::fp16(brief);
  }
  std::vector<double> row(index r) const {
    const any_matrix m = *this;
    std::vector<double> values;
    for (index c = 0; c < m.cols; ++c) values.push_back(get(r, c));
    return values;
  }
  void fill(random_numbers& random, float scale = 1, float shift = 0) const {
    const any_matrix m = *this;
    for (index r = 0; r < m.rows; ++r)
      for (index c = 0; c < m.cols; ++c) set(r, c, static_cast<double>(shift + scale * random.real()));
  }
  bool intact() const {
    return type_ == dtype::f32 ? f32_.intact() : type_ == dtype::bf16 ? bf16_.intact() : fp16_.intact();
  }
  bool same_bits_as(const typed_matrix& other) const {
    return type_ == other.type_ && same_bits(f32_.memory, other.f32_.memory) &&
           same_bits(bf16_.memory, other.bf16_.memory) && same_bits(fp16_.memory, other.fp16_.memory);
  }

 private:
  dtype type_;
  guarded_matrix<float> f32_;
  guarded_matrix<einkorn::bf16> bf16_;
  guarded_matrix<einkorn::fp16> fp16_;
};

inline guarded_buffer<float> random_vector(index n, random_numbers& random, float scale = 1,
                                           float shift = 0) {
  guarded_buffer<float> v(n);
  for (float& x : v) x = shift + scale * random.real();
  return v;
}
inline std::span<float> span_of(const guarded_buffer<float>& b) {
  return {b.data(), static_cast<std::size_t>(b.size())};
}
inline std::vector<double> doubles(const guarded_buffer<float>& b) { return {b.begin(), b.end()}; }

/// Row lengths: around the vector widths and what the kernels unroll, BERT's, and one longer than L1.
inline std::vector<index> row_lengths() {
  if (quick()) return {0, 1, 3, 8, 17, 65, 200};
  return {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 47, 63, 64, 65, 127, 129, 384, 768, 5003};
}

/// body() with ordinary stores, and once more with results that go past the caches whatever their size.
template <class Body>
void with_either_store(const Body& body) {
  const index usual = einkorn::detail::streaming_bytes();
  for (const index bytes : {std::numeric_limits<index>::max(), index{0}}) {
    INFO("streaming from ", bytes, " bytes on");
    einkorn::detail::streaming_bytes() = bytes;
    body();
  }
  einkorn::detail::streaming_bytes() = usual;
}

/// Counts what is wrong, so that a deliberately wrong result can be seen to be found.
struct error_count {
  index wrong = 0, seen = 0;
  double worst = 0;  // error / bound
  void add(double actual, double expected, double bound) {
    ++seen;
    if (!within(actual, expected, bound)) ++wrong;
    if (std::isfinite(expected) && bound > 0) worst = std::fmax(worst, std::abs(actual - expected) / bound);
  }
};

}  // namespace test
