#pragma once

#include <cstddef>
#include <einkorn/einkorn.hpp>
#include <span>

#include "parameters.hpp"

namespace bert_qa {

/// The weight of a linear layer, out x in, as the operands of its products. They are made from the f32 values
/// each time these have changed; a row-major copy in the narrow type exists only for that moment.
class linear_weight {
 public:
  /// `first` and, where it has fewer than out x in elements, its neighbours in the table.
  linear_weight(const parameter& first, index out, index in) : value_(first.value.data(), out, in) {}

  index elements() const { return value_.rows * value_.cols; }

  /// For y = x Wᵀ and, with_backward, for dx = dy W, with operands of `type`. scratch: elements() of it; not
  /// used in f32.
  void pack(einkorn::dtype type, bool with_backward, void* scratch);
  /// For y = x Wᵀ with x in bytes, instead of the other two.
  void quantize();

  const einkorn::packed_matrix& forward() const { return forward_; }
  const einkorn::packed_matrix& backward() const { return backward_; }
  const einkorn::quantized_weights& int8() const { return int8_; }
  std::size_t bytes() const;

 private:
  einkorn::matrix_view<const float> value_;
  einkorn::packed_matrix forward_, backward_;
  einkorn::quantized_weights int8_;
};

}  // namespace bert_qa
