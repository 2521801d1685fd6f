#include "linear_weight.hpp"

namespace bert_qa {

void linear_weight::pack(einkorn::dtype type, bool with_backward, void* scratch) {
  const auto& exec = einkorn::default_executor();
  einkorn::any_matrix weight = value_;
  if (type != einkorn::dtype::f32) {
    weight.data = scratch;
    weight.type = type;
    einkorn::convert(value_, einkorn::any_output(weight), exec);
  }
  if (with_backward) return einkorn::pack_pair_into(forward_, backward_, weight, type, exec);
  std::swap(weight.rows, weight.cols);
  weight.transposed = true;
  einkorn::pack_into(forward_, weight, type, exec);
}

void linear_weight::quantize() {
  forward_ = {};
  backward_ = {};
  int8_ = einkorn::quantized_weights(value_);
}

std::size_t linear_weight::bytes() const {
  return static_cast<std::size_t>(forward_.bytes() + backward_.bytes() + int8_.bytes());
}

}  // namespace bert_qa
