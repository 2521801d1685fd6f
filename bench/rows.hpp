// The row-wise, elementwise and attention operations at the sizes of a BERT's step, with their buffers.
#pragma once

#include <einkorn/einkorn.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine.hpp"
#include "peer.hpp"

namespace bench {

/// Where the operands are: in one set of buffers, used again and again; in turn in so many sets that four
/// last-level caches do not hold them; or in a few hundred KiB.
enum class placement { reused, rotating, cache };
std::string name(placement where);

/// An operation on `sets` sets of buffers; call(i) works on set i.
struct rows_operation {
  std::string shape;
  int sets = 1;
  std::function<void(int)> call;
  std::function<std::vector<stream>(int)> streams;    ///< what must be read and written
  std::function<std::optional<peer_rows>(int)> peer;  ///< the same for a peer that knows the operation
  std::function<std::vector<float>(int)> result;      ///< what the peer's must equal
  double flop = 0;                                    ///< 0: bytes are what counts
  /// Something of ours to compare with: attention: "products", the same matrix products alone, scores in
  /// memory; dropout + residual + layer normalisation: "without_dropout".
  std::string own_name;
  std::function<void(int)> own;
  std::vector<std::shared_ptr<void>> owned;
};

/// By name: softmax, softmax_backward, layernorm, layernorm_backward, gelu, gelu_backward,
/// gelu_bias_backward, dropout, dropout_residual_layernorm, dropout_residual_layernorm_backward,
/// cross_entropy, adamw, gradient_norm, attention, attention_backward, attention_nodrop,
/// attention_nodrop_backward. Throws std::invalid_argument for another name, or a placement in which the
/// operation makes no sense.
rows_operation make_operation(const std::string& name, einkorn::dtype type, placement where);

/// All names, and whether they exist for a type and a placement.
const std::vector<std::string>& operation_names();
bool exists(const std::string& name, einkorn::dtype type, placement where);

}  // namespace bench
