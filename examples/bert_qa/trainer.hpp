/// Fine-tuning: the order of the data, batches, learning rate, accumulation, loss scale, clipping, AdamW.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bert.hpp"
#include "features.hpp"
#include "flags.hpp"
#include "parameters.hpp"

namespace bert_qa {

/// Rows of the token matrix beyond a feature's own tokens. Those up to max_length are masked as keys, and
/// take part in the softmax of the loss, as in run_qa; none has no such rows, and less work.
enum class padding { max_length, none };

struct training_options {
  std::int64_t batch_size = 8;    ///< features of a micro-batch
  std::int64_t accumulation = 1;  ///< micro-batches of a step
  double epochs = 3;
  std::int64_t max_steps = 0;  ///< above 0: instead of epochs
  double learning_rate = 5e-5;
  lr_schedule schedule = lr_schedule::linear;
  std::int64_t warmup_steps = 0;
  double warmup_ratio = 0;  ///< of all steps, where warmup_steps is 0
  double weight_decay = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double max_grad_norm = 1;  ///< 0: no clipping
  std::uint64_t seed = 42;
  einkorn::loss_scaler_options loss_scale = {};  ///< fp16
  padding pad = padding::none;
  std::int32_t max_length = 384;  ///< for padding::max_length
  bool group_by_length = false;   ///< micro-batches of features of similar length
};

/// One number or array of the training state under its name, as it is saved and restored: what is not in the
/// list has no influence on the next step. dtype and shape as safetensors spells them.
struct state_entry {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::span<std::byte> bytes;
  /// Where this says what gives the entry, a flag: it is saved, and compared instead of restored. The
  /// counters have no meaning with another. U8 is text then, anything else one number.
  std::string given_by = {};
  std::int64_t largest = std::int64_t{1} << 62;  ///< of a counter; the smallest is 0
};

/// A batch as a token matrix; owns what token_batch and span_labels point to.
class batch_builder {
 public:
  /// Takes the features numbered `chosen`; they are the samples first_sample, first_sample + 1, ... of the
  /// global batch, which is what dropout is keyed by.
  void build(std::span<const feature> features, std::span<const std::int32_t> chosen,
             std::uint32_t first_sample, padding pad, std::int32_t max_length, std::int32_t pad_id);

  token_batch tokens() const { return {ids_, types_, sequences_}; }
  /// Divisors are the caller's.
  span_labels labels() const { return {starts_, ends_, 1, 1}; }
  std::span<const einkorn::sequence> sequences() const { return sequences_; }

 private:
  std::vector<std::int32_t> ids_, types_, starts_, ends_;
  std::vector<einkorn::sequence> sequences_;
};

struct step_report {
  std::int64_t step = 0;  ///< from 1
  double loss = 0, learning_rate = 0, gradient_norm = 0;
  bool skipped = false;   ///< the norm was not finite: nothing was changed
  double loss_scale = 1;  ///< of this step's gradients; other than 1 in fp16 only
  std::int64_t samples = 0, tokens = 0;
  double flop = 0, seconds = 0;
};

class trainer {
 public:
  /// Everything outlives the trainer. Initialises nothing.
  trainer(const bert_config& config, parameter_table& parameters, bert& model,
          std::span<const feature> features, const training_options& options);

  std::int64_t total_steps() const { return total_steps_; }
  std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
  std::int64_t epochs() const { return epochs_; }  ///< that are begun until total_steps()
  bool finished() const { return attempts_ >= total_steps_; }
  double epoch() const;  ///< how many passes over the data are done; a part in micro-batches, as Trainer
  std::int64_t skipped_steps() const { return scaler_.skipped(); }
  double loss_scale() const { return static_cast<double>(scaler_.scale()); }  ///< of the next step
  /// Over all steps whose loss was finite, those before the checkpoint included; NaN where there is none.
  double mean_loss() const { return all_losses_.mean(); }
  /// The same over those since this was asked the last time.
  double take_recent_loss();

  step_report step();
  /// The same, up to the gradients: forward, loss and backward of all micro-batches of the next step. For
  /// tests, and for whoever sums gradients over ranks before update().
  step_report gradients(const bert::gradient_ready& ready = {});
  void update(step_report& report);

  double learning_rate_at(std::int64_t step) const;  ///< of step number 0, 1, ...

  /// Weights, moments, counters, and what the counters depend on.
  std::vector<state_entry> state();
  /// After the entries were written: what is computed from them.
  void state_restored();

 private:
  /// Losses that are finite: one that is not would hide all others of a run, and of those that go on from it.
  struct loss_mean {
    double sum = 0;
    std::int64_t count = 0;

    void add(double loss);
    double mean() const;
  };

  void order_epoch();

  bert_config config_;
  parameter_table& parameters_;
  bert& model_;
  std::span<const feature> features_;
  training_options options_;
  std::int64_t steps_per_epoch_ = 0, total_steps_ = 0, epochs_ = 0, warmup_ = 0;

  // The state, beside the parameters. attempts counts steps begun, t those that changed the weights.
  std::int64_t attempts_ = 0, t_ = 0, schedule_ = 0;
  einkorn::loss_scaler scaler_;
  std::int64_t epoch_ = 0, position_ = 0;  ///< position: features of this epoch that are used up
  loss_mean all_losses_, recent_losses_;
  std::int64_t seed_ = 0, count_ = 0, checksum_ = 0;  ///< count: features; checksum: of their contents
  bool padded_ = false;
  std::int64_t padded_length_ = 0;
  std::array<char, 4> type_ = {' ', ' ', ' ', ' '};  ///< f32, bf16 or fp16

  std::vector<std::int32_t> order_;
  std::int64_t ordered_epoch_ = -1;
  batch_builder builder_;
  std::vector<einkorn::adamw_tensor> tensors_;
  std::vector<std::span<const float>> gradient_spans_;
};

/// 0, 1, ..., n - 1 in an order that depends on n, seed and epoch only.
std::vector<std::int32_t> permutation(std::int64_t n, std::uint64_t seed, std::int64_t epoch);

/// A permutation in which each run of batch_size features has similar lengths: pieces of 50 batches (fewer
/// for little data) of the permutation above are sorted by length, and their batches take places at random. A
/// last batch that is not full stays the last.
std::vector<std::int32_t> permutation_by_length(std::span<const feature> features, std::int64_t batch_size,
                                                std::uint64_t seed, std::int64_t epoch);

/// What a large matrix product of this type reaches on this machine now, FLOP/s: the 100 % of MFU.
double measure_gemm_peak(einkorn::dtype type);

}  // namespace bert_qa
