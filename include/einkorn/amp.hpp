/// Automatic mixed precision: which operation of a training step runs in which type, and the loss scale that
/// keeps gradients inside the range of fp16.
#pragma once

#include <cmath>

#include "error.hpp"
#include "types.hpp"

EINKORN_BEGIN_NAMESPACE

/// The operations of a training step, forward and backward.
enum class operation : std::uint8_t {
  embedding,        // gather and sum; scatter-add
  layernorm,        // with dropout and residual before it
  linear,           // activations: y = x W^T + b, dx = dy W
  weight_gradient,  // dW, db: accumulated over micro-batches
  attention,        // scores, softmax, dropout, context
  activation,       // GELU and the like
  head,             // the last projection, to logits
  loss,
  gradient_norm,
  optimizer
};

/// What an operation reads (weights and activations), calculates in, and writes.
struct operation_types {
  dtype operands, arithmetic, result;
  constexpr bool operator==(const operation_types&) const = default;
};

/// Mixed precision with `narrow` = bf16 or fp16, or plain f32. Weights, their gradients and the optimizer's
/// moments are f32 always; what matrix products read and write is narrow; sums, statistics, softmax, the
/// residual stream, logits and the loss are f32. A kernel of this library that is given these types
/// calculates as the table says.
struct precision_policy {
  dtype narrow = dtype::f32;

  constexpr dtype master() const noexcept { return dtype::f32; }
  constexpr operation_types of(operation op) const noexcept {
    switch (op) {
      case operation::linear:
      case operation::attention:
      case operation::activation:
        return {narrow, dtype::f32, narrow};
      case operation::weight_gradient:
        return {narrow, dtype::f32, dtype::f32};
      case operation::embedding:
      case operation::layernorm:
      case operation::head:
      case operation::loss:
      case operation::gradient_norm:
      case operation::optimizer:
        break;
    }
    return {dtype::f32, dtype::f32, dtype::f32};
  }
  /// bf16 has the exponents of f32; fp16 loses gradients below 2^-24.
  constexpr bool scales_loss() const noexcept { return narrow == dtype::fp16; }
};

struct loss_scaler_options {
  float initial = 65536, growth = 2, backoff = 0.5f;
  std::int64_t growth_interval = 2000;  // good steps in a row before the scale grows
};

/// Dynamic loss scaling, step by step as torch.amp.GradScaler's:
///
///   loss * scaler.scale(), backward                 // gradients are scale() times too large
///   const double unscale = scaler.unscale();        // before update(), which may change the scale
///   const double norm = gradient_norm(gradients);   // of the gradients as they are
///   if (scaler.update(std::isfinite(norm)))         // false: the step is skipped
///     adamw(..., {.grad_scale = clip_scale(norm, max_norm, unscale)});
///
/// A step whose gradients are not finite multiplies the scale by `backoff` and starts the count of good steps
/// again; after growth_interval good ones it is multiplied by `growth`, unless that is infinite. The factors
/// should be powers of 2: then scaling changes no bit of a gradient in range. Not enabled, the scale is 1 and
/// never changes, and update() still says whether the step may be taken. Two threads need a lock.
class loss_scaler {
 public:
  /// What a checkpoint has to keep.
  struct state_type {
    float scale = 1;
    std::int64_t good_steps = 0;  // since the scale changed last
    std::int64_t skipped = 0;     // steps, in all
  };

  /// Throws einkorn::error for a scale, growth <= 1, backoff outside (0, 1) or interval that cannot work.
  explicit loss_scaler(bool enabled = true, const loss_scaler_options& options = {})
      : enabled_(enabled), options_(options) {
    const auto check = [](bool right, const char* what) { detail::require(right, "loss_scaler", what); };
    check(options.initial > 0 && std::isfinite(options.initial), "initial must be positive and finite");
    check(options.growth > 1 && std::isfinite(options.growth), "growth must be above 1 and finite");
    check(options.backoff > 0 && options.backoff < 1, "backoff must be between 0 and 1");
    check(options.growth_interval > 0, "growth_interval must be positive");
    if (enabled) state_.scale = options.initial;
  }

  bool enabled() const noexcept { return enabled_; }
  float scale() const noexcept { return enabled_ ? state_.scale : 1; }
  double unscale() const noexcept { return 1.0 / static_cast<double>(scale()); }
  std::int64_t skipped() const noexcept { return state_.skipped; }

  /// Once a step, after its gradients are known. Returns `finite`: whether the weights may change.
  bool update(bool finite) noexcept {
    if (!finite) {
      ++state_.skipped;
      state_.good_steps = 0;
      if (enabled_) state_.scale *= options_.backoff;
      return false;
    }
    if (!enabled_ || ++state_.good_steps < options_.growth_interval) return true;
    state_.good_steps = 0;
    const float grown = state_.scale * options_.growth;
    if (std::isfinite(grown)) state_.scale = grown;
    return true;
  }

  state_type& state() noexcept { return state_; }
  const state_type& state() const noexcept { return state_; }

 private:
  bool enabled_;
  loss_scaler_options options_;
  state_type state_;
};

EINKORN_END_NAMESPACE
