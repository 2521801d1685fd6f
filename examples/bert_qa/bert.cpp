#include "bert.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

#include "input_error.hpp"
#include "linear_weight.hpp"

namespace bert_qa {
namespace {

using einkorn::any_matrix;
using einkorn::matrix_view;
using einkorn::transpose;

// Letters in the comments: R rows (tokens) of the batch, H hidden, I intermediate, A heads.

/// Where a layer's tensors are in the parameter table.
struct layer_parameters {
  const parameter *qkv_weight, *qkv_bias;  // of the query; key and value follow: 3H x H, 3H
  const parameter *attention_output_weight, *attention_output_bias, *attention_gamma, *attention_beta;
  const parameter *up_weight, *up_bias, *down_weight, *down_bias, *output_gamma, *output_beta;
};

/// A layer's weights as GEMM operands.
struct layer_weights {
  linear_weight qkv, attention_output, up, down;
};

/// What backward needs of a layer; with gradient checkpointing all layers share one set, but for their
/// inputs. T is the type of GEMM operands.
template <class T>
struct layer_activations {
  matrix_view<T> input;              // R x H: what query, key and value are made of
  matrix_view<T> qkv;                // R x 3H
  matrix_view<T> context;            // R x H: attention's output
  std::span<float> lse;              // A x R: log-sum-exp of each attention row
  matrix_view<float> attention_sum;  // R x H: residual + dropout(attention output), before normalisation
  std::span<float> attention_mean, attention_rstd;
  matrix_view<T> middle;  // R x H: normalised; what the feed-forward part is made of
  matrix_view<T> pre;     // R x I: before GELU, which backward computes again
  matrix_view<float> output_sum;
  std::span<float> output_mean, output_rstd;
};

class stopwatch {
 public:
  explicit stopwatch(phase_times& times) : times_(times) {}
  void lap(phase p) {
    const auto now = clock::now();
    times_[static_cast<std::size_t>(p)] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using clock = std::chrono::steady_clock;
  phase_times& times_;
  clock::time_point last_ = clock::now();
};

template <class T>
class bert_model final : public bert {
  static constexpr bool narrow = !std::is_same_v<T, float>;
  static constexpr einkorn::dtype type = einkorn::dtype_of<T>;

 public:
  bert_model(const bert_config& config, parameter_table& parameters, const bert_options& options)
      : config_(config),
        options_(options),
        H(config.hidden_size),
        I(config.intermediate_size),
        A(config.num_attention_heads),
        scale_(1 / std::sqrt(static_cast<float>(config.head_size()))),
        eps_(static_cast<float>(config.layer_norm_eps)) {
    const auto find = [&](const std::string& name) { return &parameters.at(name); };
    for (index layer = 0; layer < config.num_hidden_layers; ++layer) {
      const std::string p = "bert.encoder.layer." + std::to_string(layer) + ".";
      layers_.push_back({.qkv_weight = find(p + "attention.self.query.weight"),
                         .qkv_bias = find(p + "attention.self.query.bias"),
                         .attention_output_weight = find(p + "attention.output.dense.weight"),
                         .attention_output_bias = find(p + "attention.output.dense.bias"),
                         .attention_gamma = find(p + "attention.output.LayerNorm.weight"),
                         .attention_beta = find(p + "attention.output.LayerNorm.bias"),
                         .up_weight = find(p + "intermediate.dense.weight"),
                         .up_bias = find(p + "intermediate.dense.bias"),
                         .down_weight = find(p + "output.dense.weight"),
                         .down_bias = find(p + "output.dense.bias"),
                         .output_gamma = find(p + "output.LayerNorm.weight"),
                         .output_beta = find(p + "output.LayerNorm.bias")});
    }
    const std::string e = "bert.embeddings.";
    word_ = find(e + "word_embeddings.weight");
    position_ = find(e + "position_embeddings.weight");
    token_type_ = find(e + "token_type_embeddings.weight");
    embedding_gamma_ = find(e + "LayerNorm.weight");
    embedding_beta_ = find(e + "LayerNorm.bias");
    head_weight_ = find("qa_outputs.weight");
    head_bias_ = find("qa_outputs.bias");
    for (const layer_parameters& p : layers_)
      weights_.push_back({.qkv = {*p.qkv_weight, 3 * H, H},
                          .attention_output = {*p.attention_output_weight, H, H},
                          .up = {*p.up_weight, I, H},
                          .down = {*p.down_weight, H, I}});
    acts_.resize(layers_.size());
    layer_input_.resize(layers_.size());
  }

  void reserve(index rows, index sequences, index longest, bool training) override {
    carver count(nullptr);
    lay_out(count, rows, sequences, longest, training);
    if (count.used() > memory_.size()) {
      memory_ = memory_block();  // the old goes before the new comes
      memory_ = memory_block(count.used());
      plan_ = count.plan();
    }
  }

  void weights_changed() override { forward_packed_ = backward_packed_ = false; }

  void use_int8() override {
    int8_ = true;
    weights_changed();
  }

  std::vector<memory_use> memory() const override {
    std::size_t packed = 0;
    for (const layer_weights& w : weights_)
      for (const linear_weight* each : {&w.qkv, &w.attention_output, &w.up, &w.down}) packed += each->bytes();
    std::vector<memory_use> uses = {{"weights packed for the matrix products", packed}};
    uses.insert(uses.end(), plan_.begin(), plan_.end());
    return uses;
  }

  matrix_view<const float> forward(const token_batch& batch, const dropout_key* training) override {
    if (int8_ && training != nullptr) throw std::logic_error("a model that multiplies bytes is not trained");
    batch_ = batch;
    key_ = training != nullptr ? *training : dropout_key{};
    dropout_on_ = training != nullptr;
    index longest = 0;
    for (const auto& s : batch.sequences) longest = std::max<index>(longest, s.rows);
    if (longest > config_.max_position_embeddings)
      throw input_error("a sequence of " + std::to_string(longest) + " tokens is longer than the model's " +
                        std::to_string(config_.max_position_embeddings) + " positions");
    const index rows = batch.rows();
    reserve(rows, static_cast<index>(batch.sequences.size()), longest, dropout_on_);
    carver take(memory_.as<std::byte>().data());
    lay_out(take, rows, static_cast<index>(batch.sequences.size()), longest, dropout_on_);

    stopwatch watch(times);
    pack(dropout_on_);
    watch.lap(phase::pack_weights);

    // x = dropout(LN(word + position + type)): R x H
    einkorn::embedding_layernorm_dropout(
        tokens(), {word_->matrix(), position_->matrix(), token_type_->matrix()}, embedding_gamma_->value,
        embedding_beta_->value, eps_, hidden_dropout(-1, dropout_site::embedding), embedding_sum_,
        stream_in(0), outputs(acts_[0].input, embedding_mean_, embedding_rstd_));
    watch.lap(phase::embedding);

    for (std::size_t l = 0; l < layers_.size(); ++l) forward_layer(l, watch);

    // logits = x Wᵀ + b: R x 2, in f32
    einkorn::gemm(last(), transpose(head_weight_->matrix()), logits_, {.bias = head_bias_->value.data()});
    watch.lap(phase::head_and_loss);
    return logits_;
  }

  double loss(const span_labels& labels, bool over_padding) override {
    stopwatch watch(times);
    // The logits of a sequence side by side: starts in the first n rows, ends in the last n, n x longest
    // each.
    const auto n = static_cast<index>(batch_.sequences.size());
    for (index i = 0; i < n; ++i) {
      const einkorn::sequence& s = batch_.sequences[static_cast<std::size_t>(i)];
      for (index side = 0; side < 2; ++side) {
        float* row = &rows_of_logits_(side * n + i, 0);
        for (index t = 0; t < s.rows; ++t) row[t] = logits_(s.first_row + t, side);
        std::fill(row + s.rows, row + rows_of_logits_.cols, 0.0f);
        lengths_[static_cast<std::size_t>(side * n + i)] = over_padding ? s.rows : s.keys;
        const std::int32_t at = (side == 0 ? labels.starts : labels.ends)[static_cast<std::size_t>(i)];
        targets_[static_cast<std::size_t>(side * n + i)] =
            at >= 0 && at < lengths_[static_cast<std::size_t>(side * n + i)] ? at : ignored;
      }
    }
    double total = 0;
    for (index side = 0; side < 2; ++side) {
      const auto first = static_cast<std::size_t>(side * n), count = static_cast<std::size_t>(n);
      const double divisor =
          2 * std::max(1.0, side == 0 ? labels.start_divisor : labels.end_divisor) / labels.gradient_scale;
      total +=
          einkorn::cross_entropy(rows_of_logits_.rows_from(side * n, n),
                                 std::span<const std::int32_t>(targets_).subspan(first, count),
                                 {.ignore_index = ignored,
                                  .lengths = std::span<const std::int32_t>(lengths_).subspan(first, count),
                                  .divisor = divisor},
                                 rows_of_logits_.rows_from(side * n, n));
    }
    for (index i = 0; i < n; ++i) {
      const einkorn::sequence& s = batch_.sequences[static_cast<std::size_t>(i)];
      for (index side = 0; side < 2; ++side)
        for (index t = 0; t < s.rows; ++t) dlogits_(s.first_row + t, side) = rows_of_logits_(side * n + i, t);
    }
    watch.lap(phase::head_and_loss);
    return total / labels.gradient_scale;
  }

  void backward(const gradient_ready& ready) override {
    stopwatch watch(times);
    pack(true);
    watch.lap(phase::pack_weights);
    std::size_t group = 0;
    const auto finished = [&] {
      if (ready) ready(group);
      ++group;
    };
    // logits = x Wᵀ + b:  dW += dlogitsᵀ x,  db += sum(dlogits),  dx = dlogits W
    einkorn::gemm(transpose(matrix_view<const float>(dlogits_)), matrix_view<const float>(last()),
                  head_weight_->gradient_matrix(), {.beta = 1});
    einkorn::column_sum(dlogits_, head_bias_->gradient, true);
    einkorn::gemm(dlogits_, head_weight_->matrix(), dstream_);
    watch.lap(phase::head_and_loss);
    finished();

    for (std::size_t l = layers_.size(); l-- > 0;) {
      // The last layer's activations are still there.
      if (checkpointed_ && l + 1 < layers_.size()) {
        if constexpr (narrow) einkorn::convert(stream_in(l), acts_[l].input);
        watch.lap(phase::layernorm);
        forward_layer(l, watch);
      }
      backward_feed_forward(l, watch);
      finished();
      backward_attention(l, watch);
      finished();
    }

    einkorn::embedding_layernorm_dropout_backward(
        dstream_, tokens(), embedding_sum_, embedding_gamma_->value, embedding_mean_, embedding_rstd_,
        hidden_dropout(-1, dropout_site::embedding), dstream_, embedding_gamma_->gradient,
        embedding_beta_->gradient,
        {word_->gradient_matrix(), position_->gradient_matrix(), token_type_->gradient_matrix()},
        {.padding_id = static_cast<std::int32_t>(config_.pad_token_id), .accumulate = true});
    watch.lap(phase::embedding_backward);
    finished();
  }

 private:
  static constexpr std::int32_t ignored = -100;

  /// Cuts the memory for a batch of R rows. Without training one set of buffers serves all layers.
  void lay_out(carver& take, index R, index sequences, index longest, bool training) {
    checkpointed_ = training && options_.gradient_checkpointing;
    take.begin("shared buffers");
    embedding_sum_ = take.matrix<float>(R, H);
    embedding_mean_ = take.array<float>(R);
    embedding_rstd_ = take.array<float>(R);
    sub_ = take.matrix<T>(R, H);
    act_ = take.matrix<T>(R, I);
    if (narrow && !checkpointed_) stream_ = take.matrix<float>(R, H);
    if (narrow && checkpointed_) middle_ = take.matrix<float>(R, H);
    if (narrow) narrow_weight_ = take.matrix<T>(std::max(I, 3 * H), H);
    bytes_ = int8_ ? take.matrix<std::uint8_t>(R, std::max(I, H)) : matrix_view<std::uint8_t>();
    byte_scales_ = take.array<float>(int8_ ? R : 0);
    byte_zeros_ = take.array<std::int32_t>(int8_ ? R : 0);
    take.begin("logits and loss");
    logits_ = take.matrix<float>(R, 2);
    dlogits_ = take.matrix<float>(R, 2);
    rows_of_logits_ = take.matrix<float>(2 * sequences, longest);
    targets_ = take.array<std::int32_t>(2 * sequences);
    lengths_ = take.array<std::int32_t>(2 * sequences);
    for (std::size_t l = 0; l < acts_.size(); ++l) {
      layer_activations<T>& a = acts_[l];
      if (l > 0 && (!training || checkpointed_)) {
        a = acts_[0];
      } else {
        take.begin("activations: layers' inputs");
        if (narrow || !checkpointed_) a.input = take.matrix<T>(R, H);
        a.middle = take.matrix<T>(R, H);
        take.begin("activations: attention");
        a.qkv = take.matrix<T>(R, 3 * H);
        a.context = take.matrix<T>(R, H);
        a.lse = take.array<float>(A * R);
        take.begin("activations: before GELU");
        a.pre = training ? take.matrix<T>(R, I) : matrix_view<T>();
        take.begin("activations: before normalisation");
        a.attention_sum = take.matrix<float>(R, H);
        a.attention_mean = take.array<float>(R);
        a.attention_rstd = take.array<float>(R);
        a.output_sum = take.matrix<float>(R, H);
        a.output_mean = take.array<float>(R);
        a.output_rstd = take.array<float>(R);
      }
      if (checkpointed_) {
        take.begin("activations: layers' inputs");
        layer_input_[l] = take.matrix<float>(R, H);
        if constexpr (!narrow)
          a.input = layer_input_[l];
        else if (l > 0)  // two in turn: a layer that is computed again writes the next one's
          a.input = l > 1 ? acts_[l - 2].input : take.matrix<T>(R, H);
      }
    }
    // In evaluation the last layer writes where the first one read: all layers share their buffers.
    take.begin("activations: layers' inputs");
    last_ = training ? take.matrix<T>(R, H) : acts_[0].input;
    if (narrow && checkpointed_) last_stream_ = take.matrix<float>(R, H);
    if (!training) return;
    take.begin("gradients of activations");
    dstream_ = take.matrix<float>(R, H);
    dsub_ = take.matrix<T>(R, H);
    dwide_ = take.matrix<T>(R, std::max(I, 3 * H));
  }

  /// The residual stream in f32 before and after a sublayer. With narrow operands it is one buffer, written
  /// over, unless the inputs of the layers are kept; in f32 it is the operands themselves.
  matrix_view<float> stream_in(std::size_t l) const {
    if (checkpointed_) return layer_input_[l];
    if constexpr (narrow)
      return stream_;
    else
      return acts_[l].input;
  }
  matrix_view<float> stream_middle(std::size_t l) const {
    if constexpr (narrow)
      return checkpointed_ ? middle_ : stream_;
    else
      return acts_[l].middle;
  }
  matrix_view<T> next_input(std::size_t l) const { return l + 1 < acts_.size() ? acts_[l + 1].input : last_; }
  matrix_view<float> stream_out(std::size_t l) const {
    if (l + 1 < acts_.size()) return stream_in(l + 1);
    if constexpr (narrow)
      return checkpointed_ ? last_stream_ : stream_;
    else
      return last_;
  }
  matrix_view<float> last() const { return stream_out(acts_.size() - 1); }
  einkorn::layernorm_outputs outputs(const matrix_view<T>& operand, std::span<float> mean,
                                     std::span<float> rstd) const {
    einkorn::layernorm_outputs result{.narrow = {}, .mean = mean, .rstd = rstd};
    if constexpr (narrow) result.narrow = operand;
    return result;
  }

  einkorn::embedding_tokens tokens() const { return {batch_.ids, batch_.types, batch_.sequences}; }

  einkorn::dropout_spec dropout(double p, index layer, dropout_site site) const {
    return {.p = dropout_on_ ? static_cast<float>(p) : 0,
            .seed = key_.seed,
            .step = key_.step,
            .site = site_of(layer, site),
            .sequences = batch_.sequences};
  }
  einkorn::dropout_spec hidden_dropout(index layer, dropout_site site) const {
    return dropout(config_.hidden_dropout_prob, layer, site);
  }

  einkorn::activation activation() const {
    switch (config_.activation()) {
      case hidden_activation::gelu:
        return einkorn::activation::gelu;
      case hidden_activation::gelu_tanh:
        return einkorn::activation::gelu_tanh;
      case hidden_activation::relu:
        return einkorn::activation::relu;
    }
    return einkorn::activation::gelu;
  }

  matrix_view<float> gradient(const parameter& p, index rows, index cols) const {
    return {p.gradient.data(), rows, cols};
  }

  void pack(bool with_backward) {
    if (with_backward ? backward_packed_ : forward_packed_) return;
    forward_packed_ = true;
    backward_packed_ = with_backward;
    for (layer_weights& w : weights_)
      for (linear_weight* each : {&w.qkv, &w.attention_output, &w.up, &w.down}) {
        if (int8_)
          each->quantize();
        else
          each->pack(type, with_backward, narrow_weight_.data);
      }
  }

  /// y = epilogue(x Wᵀ)
  void linear(const matrix_view<T>& x, const linear_weight& w, const matrix_view<T>& y,
              const einkorn::epilogue& e) {
    if (!int8_) {
      einkorn::gemm(x, w.forward(), y, e);
      return;
    }
    const einkorn::quantized_rows bytes{{bytes_.data, x.rows, x.cols}, byte_scales_, byte_zeros_};
    einkorn::quantize_rows(x, bytes);
    einkorn::gemm(bytes, w.int8(), y, e);
  }

  void forward_layer(std::size_t l, stopwatch& watch) {
    const layer_parameters& p = layers_[l];
    const layer_weights& w = weights_[l];
    layer_activations<T>& a = acts_[l];
    const auto layer = static_cast<index>(l);

    // qkv = x Wᵀ + b: R x 3H
    linear(a.input, w.qkv, a.qkv, {.bias = p.qkv_bias->value.data()});
    watch.lap(phase::linear);
    einkorn::attention(a.qkv, batch_.sequences, a.context, a.lse, attention_options(layer));
    watch.lap(phase::attention);
    // y = LN(x + dropout(context Wᵀ + b)): R x H
    linear(a.context, w.attention_output, sub_, {.bias = p.attention_output_bias->value.data()});
    watch.lap(phase::linear);
    einkorn::dropout_residual_layernorm(sub_, stream_in(l), p.attention_gamma->value, p.attention_beta->value,
                                        eps_, hidden_dropout(layer, dropout_site::attention_output),
                                        a.attention_sum, stream_middle(l),
                                        outputs(a.middle, a.attention_mean, a.attention_rstd));
    watch.lap(phase::layernorm);
    // act = gelu(y Wᵀ + b): R x I
    einkorn::epilogue up{.bias = p.up_bias->value.data(), .act = activation()};
    if (a.pre.data != nullptr) up.preactivation = a.pre;
    linear(a.middle, w.up, act_, up);
    // z = LN(y + dropout(act Wᵀ + b)): R x H
    linear(act_, w.down, sub_, {.bias = p.down_bias->value.data()});
    watch.lap(phase::linear);
    einkorn::dropout_residual_layernorm(sub_, stream_middle(l), p.output_gamma->value, p.output_beta->value,
                                        eps_, hidden_dropout(layer, dropout_site::output), a.output_sum,
                                        stream_out(l), outputs(next_input(l), a.output_mean, a.output_rstd));
    watch.lap(phase::layernorm);
  }

  einkorn::attention_options attention_options(index layer) const {
    return {.heads = static_cast<int>(A),
            .scale = scale_,
            .dropout = dropout(config_.attention_probs_dropout_prob, layer, dropout_site::attention)};
  }

  /// dstream_ holds dz on entry and dy on return.
  void backward_feed_forward(std::size_t l, stopwatch& watch) {
    const layer_parameters& p = layers_[l];
    layer_activations<T>& a = acts_[l];
    const auto layer = static_cast<index>(l);
    const matrix_view<T> dpre(dwide_.data, dwide_.rows, I);

    // dsub = gradient of the down product's output: R x H; the residual's share stays in dstream_
    einkorn::dropout_residual_layernorm_backward(
        dstream_, a.output_sum, p.output_gamma->value, a.output_mean, a.output_rstd,
        hidden_dropout(layer, dropout_site::output), dsub_, dstream_, p.output_gamma->gradient,
        p.output_beta->gradient, {.dy_added = {}, .accumulate = true});
    watch.lap(phase::layernorm_backward);
    // From what backward kept, so that all layers round alike, recomputed or not.
    einkorn::activate(a.pre, act_, activation());
    watch.lap(phase::gelu_backward);
    einkorn::gemm(transpose(dsub_), act_, gradient(*p.down_weight, H, I), {.beta = 1});
    einkorn::column_sum(dsub_, p.down_bias->gradient, true);
    watch.lap(phase::linear_dw);
    einkorn::gemm(dsub_, weights_[l].down.backward(), dpre);  // R x I
    watch.lap(phase::linear_dx);
    einkorn::activate_backward(dpre, a.pre, dpre, activation(), p.up_bias->gradient);
    watch.lap(phase::gelu_backward);
    einkorn::gemm(transpose(dpre), a.middle, gradient(*p.up_weight, I, H), {.beta = 1});
    watch.lap(phase::linear_dw);
    einkorn::gemm(dpre, weights_[l].up.backward(), dstream_, {.beta = 1});  // R x H
    watch.lap(phase::linear_dx);
  }

  /// dstream_ holds dy on entry and dx on return.
  void backward_attention(std::size_t l, stopwatch& watch) {
    const layer_parameters& p = layers_[l];
    layer_activations<T>& a = acts_[l];
    const auto layer = static_cast<index>(l);
    const matrix_view<T> dqkv(dwide_.data, dwide_.rows, 3 * H);

    einkorn::dropout_residual_layernorm_backward(
        dstream_, a.attention_sum, p.attention_gamma->value, a.attention_mean, a.attention_rstd,
        hidden_dropout(layer, dropout_site::attention_output), dsub_, dstream_, p.attention_gamma->gradient,
        p.attention_beta->gradient, {.dy_added = {}, .accumulate = true});
    watch.lap(phase::layernorm_backward);
    einkorn::gemm(transpose(dsub_), a.context, gradient(*p.attention_output_weight, H, H), {.beta = 1});
    einkorn::column_sum(dsub_, p.attention_output_bias->gradient, true);
    watch.lap(phase::linear_dw);
    einkorn::gemm(dsub_, weights_[l].attention_output.backward(), sub_);  // dcontext: R x H
    watch.lap(phase::linear_dx);
    einkorn::attention_backward(a.qkv, a.context, sub_, a.lse, batch_.sequences, dqkv,
                                attention_options(layer));
    watch.lap(phase::attention_backward);
    const matrix_view<float> dw(p.qkv_weight->gradient.data(), 3 * H, H);
    einkorn::gemm(transpose(dqkv), a.input, dw, {.beta = 1});
    einkorn::column_sum(dqkv, {p.qkv_bias->gradient.data(), static_cast<std::size_t>(3 * H)}, true);
    watch.lap(phase::linear_dw);
    einkorn::gemm(dqkv, weights_[l].qkv.backward(), dstream_, {.beta = 1});  // R x H
    watch.lap(phase::linear_dx);
  }

  bert_config config_;
  bert_options options_;
  const index H, I, A;
  const float scale_, eps_;

  std::vector<layer_parameters> layers_;
  const parameter *word_, *position_, *token_type_, *embedding_gamma_, *embedding_beta_, *head_weight_,
      *head_bias_;
  std::vector<layer_weights> weights_;
  bool forward_packed_ = false, backward_packed_ = false, int8_ = false;

  memory_block memory_;
  std::vector<memory_use> plan_;
  bool checkpointed_ = false;
  std::vector<layer_activations<T>> acts_;
  matrix_view<float> embedding_sum_;  // R x H
  std::span<float> embedding_mean_, embedding_rstd_;
  std::vector<matrix_view<float>> layer_input_;       // R x H each, where they are kept
  matrix_view<float> stream_, middle_, last_stream_;  // R x H, where T is narrow
  matrix_view<T> act_;                                // R x I: after GELU
  matrix_view<T> narrow_weight_;                      // max(I, 3H) x H: one weight, while it is packed
  matrix_view<std::uint8_t> bytes_;                   // R x max(I, H): a linear layer's input in int8
  std::span<float> byte_scales_;
  std::span<std::int32_t> byte_zeros_;
  matrix_view<T> sub_;                   // R x H: a sublayer's output; in backward, dcontext
  matrix_view<T> last_;                  // R x H: the last layer's output
  matrix_view<float> logits_, dlogits_;  // R x 2
  matrix_view<float> rows_of_logits_;    // 2 sequences x longest; after loss(), their gradients
  std::span<std::int32_t> targets_, lengths_;
  matrix_view<float> dstream_;  // R x H: gradient of the residual stream
  matrix_view<T> dsub_;         // R x H
  matrix_view<T> dwide_;        // R x max(I, 3H)

  token_batch batch_;
  dropout_key key_;
  bool dropout_on_ = false;
};

}  // namespace

std::unique_ptr<bert> make_bert(const bert_config& config, parameter_table& parameters,
                                const bert_options& options) {
  switch (parameters.narrow_type()) {
    case einkorn::dtype::bf16:
      return std::make_unique<bert_model<einkorn::bf16>>(config, parameters, options);
    case einkorn::dtype::fp16:
      return std::make_unique<bert_model<einkorn::fp16>>(config, parameters, options);
    default:
      return std::make_unique<bert_model<float>>(config, parameters, options);
  }
}

double forward_flop(const bert_config& config, std::span<const einkorn::sequence> sequences) {
  const auto h = static_cast<double>(config.hidden_size), i = static_cast<double>(config.intermediate_size);
  double total = 0;
  for (const einkorn::sequence& s : sequences) {
    const double rows = s.rows, keys = s.keys;
    total += static_cast<double>(config.num_hidden_layers) *
             (2 * rows * (4 * h * h + 2 * h * i) + 4 * rows * keys * h);
    total += 4 * rows * h;
  }
  return total;
}

}  // namespace bert_qa
