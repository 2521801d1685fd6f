/// BertForQuestionAnswering, forward and backward, written out by hand over einkorn's kernels.
///
/// A batch is a matrix whose rows are tokens; `sequences` says which rows belong to which sample. Padded
/// batches (keys < rows) and packed ones (keys == rows, nothing between the samples) are the same code.
#pragma once

#include <array>
#include <cstdint>
#include <einkorn/einkorn.hpp>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "memory.hpp"
#include "model_folder.hpp"
#include "parameters.hpp"

namespace bert_qa {

struct token_batch {
  std::span<const std::int32_t> ids, types;      ///< one a row
  std::span<const einkorn::sequence> sequences;  ///< cover the rows in order
  index rows() const { return static_cast<index>(ids.size()); }
};

/// Positions in the sequence. One outside [0, rows of the sequence) is ignored. The divisors are how many
/// starts and ends count in the whole batch, over all micro-batches (and ranks). The gradients, not the loss,
/// are multiplied by gradient_scale, a power of 2.
struct span_labels {
  std::span<const std::int32_t> starts, ends;
  double start_divisor = 1, end_divisor = 1;
  double gradient_scale = 1;
};

/// What every dropout of one step is keyed by; the samples' numbers are in the sequences.
struct dropout_key {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
};

/// Where the time of a step goes.
enum class phase : std::uint8_t {
  pack_weights,
  embedding,
  linear,
  attention,
  layernorm,
  head_and_loss,
  linear_dx,
  linear_dw,
  attention_backward,
  gelu_backward,
  layernorm_backward,
  embedding_backward,
  norm,
  adamw
};
inline constexpr std::array<const char*, 14> phase_names = {"pack_weights",
                                                            "embedding",
                                                            "linear",
                                                            "attention",
                                                            "layernorm",
                                                            "head_and_loss",
                                                            "linear_dx",
                                                            "linear_dw",
                                                            "attention_backward",
                                                            "gelu_backward",
                                                            "layernorm_backward",
                                                            "embedding_backward",
                                                            "gradient_norm",
                                                            "adamw"};
using phase_times = std::array<double, phase_names.size()>;  ///< seconds

struct bert_options {
  /// Keep only the input of each layer for backward, which computes the rest again: a third more work, a
  /// seventh of the memory, the same bits.
  bool gradient_checkpointing = false;
};

class bert {
 public:
  virtual ~bert() = default;

  /// Takes the memory that a batch of this size needs, so that nothing is allocated later.
  virtual void reserve(index rows, index sequences, index longest, bool training) = 0;

  /// The weights have changed: pack them again for the GEMMs.
  virtual void weights_changed() = 0;

  /// From now on the linear layers of every forward without dropout multiply bytes. Such a model is not
  /// trained any more: forward with a key throws std::logic_error.
  virtual void use_int8() = 0;

  /// What the model holds now beside the parameter table, by purpose.
  virtual std::vector<memory_use> memory() const = 0;

  /// Logits, rows x 2 (start, end), valid until the next call. With a key, dropout is on and what backward
  /// needs is kept.
  virtual einkorn::matrix_view<const float> forward(const token_batch& batch,
                                                    const dropout_key* training) = 0;

  /// This batch's part of the loss, (sum over starts / start_divisor + sum over ends / end_divisor) / 2, of
  /// the last forward. over_padding: softmax over all rows of a sequence, as run_qa does; else its keys.
  virtual double loss(const span_labels& labels, bool over_padding) = 0;

  /// Adds the gradients of the last loss() to the table's; `ready(group)` is called as each is finished.
  using gradient_ready = std::function<void(std::size_t group)>;
  virtual void backward(const gradient_ready& ready = {}) = 0;

  phase_times times{};
};

/// `parameters` outlives the model; their narrow type is the model's. Dropout as the config says.
std::unique_ptr<bert> make_bert(const bert_config& config, parameter_table& parameters,
                                const bert_options& options = {});

/// Floating-point operations of one forward pass (a product and a sum are two); backward has twice as many.
double forward_flop(const bert_config& config, std::span<const einkorn::sequence> sequences);

/// The site of a dropout, as dropout_spec keys it: attention takes the `heads` sites from its own on.
enum class dropout_site : std::uint32_t { embedding = 0, attention_output = 1, output = 2, attention = 256 };
constexpr std::uint32_t site_of(index layer, dropout_site site) {
  return static_cast<std::uint32_t>((layer + 1) << 16) | static_cast<std::uint32_t>(site);
}

}  // namespace bert_qa
