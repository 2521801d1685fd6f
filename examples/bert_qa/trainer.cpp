#include "trainer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>

#include "input_error.hpp"

namespace bert_qa {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

namespace {

/// Fisher-Yates: swap(i, j) for i from n - 1 to 1, j at random in [0, i]. 64 random bits modulo i + 1 are
/// uniform to 2^-32. The last counter word keeps the stream apart from those of dropout (site) and of the
/// weights (a hash); `purpose` keeps shuffles apart.
template <class Swap>
void shuffle(std::int64_t n, std::uint64_t seed, std::int64_t epoch, std::uint32_t purpose,
             const Swap& swap) {
  for (std::uint32_t i = static_cast<std::uint32_t>(n); i-- > 1;) {
    const auto bits = philox4x32(seed, {{i, static_cast<std::uint32_t>(epoch), purpose, 0xffffffffu}});
    const std::uint64_t wide = (std::uint64_t{bits.word[1]} << 32) | bits.word[0];
    swap(i, wide % (std::uint64_t{i} + 1));
  }
}

/// FNV-1a over all that a step reads of the windows.
std::int64_t checksum(std::span<const feature> features) {
  std::uint64_t sum = 0xcbf29ce484222325u;
  const auto add = [&](std::int32_t number) {
    sum = (sum ^ static_cast<std::uint32_t>(number)) * 0x100000001b3u;
  };
  for (const feature& f : features) {
    add(f.size());
    for (const std::int32_t id : f.input_ids) add(id);
    for (const std::int32_t type : f.token_type_ids) add(type);
    add(f.start_position);
    add(f.end_position);
  }
  return static_cast<std::int64_t>(sum);
}

}  // namespace

std::vector<std::int32_t> permutation(std::int64_t n, std::uint64_t seed, std::int64_t epoch) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  shuffle(n, seed, epoch, 0x6f726472u, [&](auto i, auto j) { std::swap(order[i], order[j]); });
  return order;
}

std::vector<std::int32_t> permutation_by_length(std::span<const feature> features, std::int64_t batch_size,
                                                std::uint64_t seed, std::int64_t epoch) {
  const auto n = static_cast<std::int64_t>(features.size());
  std::vector<std::int32_t> order = permutation(n, seed, epoch);
  const std::int64_t batches = std::clamp<std::int64_t>(n / (4 * batch_size), 1, 50);
  for (std::int64_t first = 0; first < n; first += batches * batch_size) {
    const auto piece = std::span(order).subspan(
        static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(batches * batch_size, n - first)));
    std::ranges::stable_sort(piece, std::ranges::greater(), [&](std::int32_t number) {
      return features[static_cast<std::size_t>(number)].size();
    });
    const auto width = static_cast<std::size_t>(batch_size);
    shuffle(static_cast<std::int64_t>(piece.size() / width), seed, epoch,
            0x6c656e67u + static_cast<std::uint32_t>(first), [&](auto i, auto j) {
              if (i != j)
                std::ranges::swap_ranges(piece.subspan(i * width, width), piece.subspan(j * width, width));
            });
  }
  return order;
}

void batch_builder::build(std::span<const feature> features, std::span<const std::int32_t> chosen,
                          std::uint32_t first_sample, padding pad, std::int32_t max_length,
                          std::int32_t pad_id) {
  ids_.clear();
  types_.clear();
  starts_.clear();
  ends_.clear();
  sequences_.clear();
  for (const std::int32_t number : chosen) {
    const feature& f = features[static_cast<std::size_t>(number)];
    const std::int32_t rows = pad == padding::none ? f.size() : std::max(max_length, f.size());
    sequences_.push_back({.first_row = static_cast<index>(ids_.size()),
                          .rows = rows,
                          .keys = f.size(),
                          .sample = first_sample + static_cast<std::uint32_t>(sequences_.size())});
    ids_.insert(ids_.end(), f.input_ids.begin(), f.input_ids.end());
    types_.insert(types_.end(), f.token_type_ids.begin(), f.token_type_ids.end());
    ids_.insert(ids_.end(), static_cast<std::size_t>(rows - f.size()), pad_id);
    types_.insert(types_.end(), static_cast<std::size_t>(rows - f.size()), 0);
    starts_.push_back(f.start_position);
    ends_.push_back(f.end_position);
  }
}

trainer::trainer(const bert_config& config, parameter_table& parameters, bert& model,
                 std::span<const feature> features, const training_options& options)
    : config_(config),
      parameters_(parameters),
      model_(model),
      features_(features),
      options_(options),
      scaler_(einkorn::precision_policy{parameters.narrow_type()}.scales_loss(), options.loss_scale),
      seed_(static_cast<std::int64_t>(options.seed)),
      count_(static_cast<std::int64_t>(features.size())),
      checksum_(checksum(features)),
      padded_(options.pad == padding::max_length),
      padded_length_(options.max_length) {
  if (features.empty()) throw input_error("there is nothing to train on: the training data has no question");
  std::ranges::copy(std::string_view(einkorn::name(parameters.narrow_type())), type_.begin());
  steps_per_epoch_ = ceil_div(count_, options.batch_size * options.accumulation);
  total_steps_ =
      options.max_steps > 0
          ? options.max_steps
          : std::max<std::int64_t>(1, static_cast<std::int64_t>(
                                          std::ceil(static_cast<double>(steps_per_epoch_) * options.epochs)));
  epochs_ = options.max_steps > 0 ? ceil_div(total_steps_, steps_per_epoch_)
                                  : static_cast<std::int64_t>(std::ceil(options.epochs));
  warmup_ =
      options.warmup_steps > 0
          ? options.warmup_steps
          : static_cast<std::int64_t>(std::ceil(options.warmup_ratio * static_cast<double>(total_steps_)));
  for (const parameter& p : parameters_.all()) {
    gradient_spans_.push_back(p.gradient);
    tensors_.push_back({.param = p.value.data(),
                        .grad = p.gradient.data(),
                        .m = p.m.data(),
                        .v = p.v.data(),
                        .n = static_cast<index>(p.count),
                        .decay = p.decay});
  }

  parameters_.clear_gradients();  // update() leaves them 0 for the next step

  // The memory of the largest micro-batch, now: later steps allocate nothing.
  const std::int32_t longest =
      std::ranges::max_element(features, {}, [](const feature& f) { return f.size(); })->size();
  const std::int64_t width = std::min(count_, options.batch_size);
  const std::int32_t rows =
      options.pad == padding::max_length ? std::max(options.max_length, longest) : longest;
  model_.reserve(width * rows, width, rows, true);
}

double trainer::epoch() const {
  return static_cast<double>(epoch_) + static_cast<double>(ceil_div(position_, options_.batch_size)) /
                                           static_cast<double>(ceil_div(count_, options_.batch_size));
}

void trainer::loss_mean::add(double loss) {
  if (!std::isfinite(loss)) return;
  sum += loss;
  ++count;
}

double trainer::loss_mean::mean() const {
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count);
}

double trainer::take_recent_loss() { return std::exchange(recent_losses_, {}).mean(); }

double trainer::learning_rate_at(std::int64_t step) const {
  const double s = static_cast<double>(step), warmup = static_cast<double>(warmup_),
               total = static_cast<double>(total_steps_);
  if (options_.schedule == lr_schedule::constant) return options_.learning_rate;
  if (step < warmup_) return options_.learning_rate * s / std::max(1.0, warmup);
  if (options_.schedule == lr_schedule::constant_with_warmup) return options_.learning_rate;
  const double done = std::clamp((s - warmup) / std::max(1.0, total - warmup), 0.0, 1.0);
  if (options_.schedule == lr_schedule::cosine)
    return options_.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * done));
  return options_.learning_rate * (1 - done);
}

void trainer::order_epoch() {
  if (position_ >= count_) {
    ++epoch_;
    position_ = 0;
  }
  if (ordered_epoch_ == epoch_) return;
  const auto seed = static_cast<std::uint64_t>(seed_);
  order_ = options_.group_by_length ? permutation_by_length(features_, options_.batch_size, seed, epoch_)
                                    : permutation(count_, seed, epoch_);
  ordered_epoch_ = epoch_;
}

step_report trainer::gradients(const bert::gradient_ready& ready) {
  const double begin = now();
  order_epoch();
  const auto count = std::min(options_.batch_size * options_.accumulation, count_ - position_);
  const std::span<const std::int32_t> chosen =
      std::span(order_).subspan(static_cast<std::size_t>(position_), static_cast<std::size_t>(count));

  step_report report{.step = attempts_ + 1, .loss_scale = loss_scale(), .samples = count};
  const dropout_key key{static_cast<std::uint64_t>(seed_), static_cast<std::uint32_t>(attempts_)};
  for (std::int64_t first = 0; first < count; first += options_.batch_size) {
    const auto width = std::min(options_.batch_size, count - first);
    builder_.build(features_,
                   chosen.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(width)),
                   static_cast<std::uint32_t>(first), options_.pad, options_.max_length,
                   static_cast<std::int32_t>(config_.pad_token_id));
    model_.forward(builder_.tokens(), &key);
    span_labels labels = builder_.labels();  // every feature has both positions inside: all count
    labels.start_divisor = labels.end_divisor = static_cast<double>(count);
    labels.gradient_scale = report.loss_scale;
    report.loss += model_.loss(labels, options_.pad != padding::none);
    const bool last = first + width == count;
    model_.backward(last ? ready : bert::gradient_ready{});
    report.flop += 3 * forward_flop(config_, builder_.sequences());
    report.tokens += builder_.tokens().rows();
  }
  position_ += count;
  all_losses_.add(report.loss);
  recent_losses_.add(report.loss);
  ++attempts_;
  report.seconds = now() - begin;
  return report;
}

void trainer::update(step_report& report) {
  const double begin = now();
  // The clip and the loss scale are taken off in AdamW's own pass.
  const double unscale = 1 / report.loss_scale, scaled_norm = einkorn::gradient_norm(gradient_spans_);
  report.gradient_norm = scaled_norm * unscale;
  const double normed = now();
  model_.times[static_cast<std::size_t>(phase::norm)] += normed - begin;
  report.learning_rate = learning_rate_at(schedule_);
  report.skipped = !scaler_.update(std::isfinite(report.gradient_norm) && std::isfinite(report.loss));
  if (report.skipped) {
    parameters_.clear_gradients();
  } else {
    ++t_;
    ++schedule_;
    einkorn::adamw(tensors_,
                   {.lr = report.learning_rate,
                    .beta1 = options_.beta1,
                    .beta2 = options_.beta2,
                    .eps = options_.epsilon,
                    .weight_decay = options_.weight_decay,
                    .t = t_,
                    .grad_scale = options_.max_grad_norm > 0
                                      ? einkorn::clip_scale(scaled_norm, options_.max_grad_norm, unscale)
                                      : static_cast<float>(unscale),
                    .zero_grad = true});
    model_.weights_changed();
    model_.times[static_cast<std::size_t>(phase::adamw)] += now() - normed;
  }
  report.seconds += now() - begin;
}

step_report trainer::step() {
  step_report report = gradients();
  update(report);
  return report;
}

std::vector<state_entry> trainer::state() {
  std::vector<state_entry> entries;
  const auto add = [&](const char* name, const char* dtype, auto& value) -> state_entry& {
    return entries.emplace_back(state_entry{name, dtype, {1}, std::as_writable_bytes(std::span(&value, 1))});
  };
  for (const parameter& p : parameters_.all())
    entries.push_back({"weight." + p.name, "F32", p.shape, std::as_writable_bytes(p.value)});
  for (const parameter& p : parameters_.all()) {
    entries.push_back({"adamw.m." + p.name, "F32", p.shape, std::as_writable_bytes(p.m)});
    entries.push_back({"adamw.v." + p.name, "F32", p.shape, std::as_writable_bytes(p.v)});
  }
  add("random.seed", "I64", seed_).given_by = "--seed";
  const std::string data = "training data (its file, --max_train_samples, --max_seq_length, --doc_stride)";
  add("data.count", "I64", count_).given_by = "windows of the " + data;
  add("data.checksum", "I64", checksum_).given_by = "checksum of the " + data;
  add("batch.size", "I64", options_.batch_size).given_by = "--per_device_train_batch_size";
  add("batch.accumulation", "I64", options_.accumulation).given_by = "--gradient_accumulation_steps";
  add("batch.by_length", "BOOL", options_.group_by_length).given_by = "--group_by_length";
  add("batch.padded", "BOOL", padded_).given_by = "--pad_to_max_length";
  if (padded_) add("batch.padded_length", "I64", padded_length_).given_by = "--max_seq_length";
  entries.push_back({"type", "U8", {4}, std::as_writable_bytes(std::span(type_)), "--bf16, --fp16"});
  add("adamw.t", "I64", t_);
  add("schedule.step", "I64", schedule_);
  add("random.step", "I64", attempts_);
  add("data.epoch", "I64", epoch_);
  add("data.position", "I64", position_).largest = count_;
  add("loss.sum", "F64", all_losses_.sum);
  add("loss.count", "I64", all_losses_.count);
  add("recent_loss.sum", "F64", recent_losses_.sum);
  add("recent_loss.count", "I64", recent_losses_.count);
  einkorn::loss_scaler::state_type& scaling = scaler_.state();
  add("steps.skipped", "I64", scaling.skipped);
  if (scaler_.enabled()) {
    add("scaler.scale", "F32", scaling.scale);
    add("scaler.good_steps", "I64", scaling.good_steps);
  }
  return entries;
}

void trainer::state_restored() {
  ordered_epoch_ = -1;
  model_.weights_changed();
}

double measure_gemm_peak(einkorn::dtype type) {
  constexpr index m = 768, n = 768, k = 768;
  const auto run = [&]<class T>(T) {
    std::vector<T> a(m * k, T(0.5f)), b(k * n, T(0.25f));
    std::vector<float> c(m * n);
    const einkorn::packed_matrix packed = einkorn::pack(einkorn::matrix_view<const T>(b.data(), k, n));
    double best = 0;
    const double begin = now();
    for (int i = 0; i < 3 || (i < 200 && now() - begin < 0.15); ++i) {
      const double start = now();
      einkorn::gemm(einkorn::matrix_view<const T>(a.data(), m, k), packed,
                    einkorn::matrix_view<float>(c.data(), m, n));
      best = std::max(best, 2.0 * m * n * k / (now() - start));
    }
    return best;
  };
  if (type == einkorn::dtype::bf16) return run(einkorn::bf16());
  if (type == einkorn::dtype::fp16) return run(einkorn::fp16());
  return run(0.0f);
}

}  // namespace bert_qa
