// Training around the model: dropout's gradients, the same bits for any number of threads, the order in which
// gradients are announced, micro-batches, the state that is enumerated, and the numbers that never change.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <einkorn/testing/amx_emulator.hpp>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "bert.hpp"
#include "parameters.hpp"
#include "small_bert.hpp"
#include "support.hpp"
#include "trainer.hpp"

namespace {

using namespace bert_qa;
using namespace test;
using einkorn::dtype;

/// amx among the levels, emulated where the CPU has no tiles.
using testing_levels = einkorn::testing::amx_emulator;

struct thread_count {
  explicit thread_count(const einkorn::executor& exec) : before(einkorn::default_executor()) {
    einkorn::set_default_executor(exec);
  }
  ~thread_count() { einkorn::set_default_executor(before); }
  einkorn::executor before;
};

double distance(std::span<const float> x, std::span<const float> y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    sum += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
  return std::sqrt(sum);
}
double norm(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("with dropout: the gradient along random directions equals the difference quotient") {
  const auto data = make_data(4);
  batch_builder batch;
  const std::vector<std::int32_t> all = {0, 1, 2, 3};
  for (const padding pad : {padding::max_length, padding::none}) {
    setup s(0.2);
    batch.build(data, all, 0, pad, 24, 0);
    span_labels labels = batch.labels();
    labels.start_divisor = labels.end_divisor = 4;
    const dropout_key key{5, 9};
    const auto loss = [&] {
      s.model->weights_changed();
      s.model->forward(batch.tokens(), &key);
      return s.model->loss(labels, true);
    };
    s.table.clear_gradients();
    const double base = loss();
    CHECK(loss() == base);  // the mask depends on the key alone
    s.model->backward();
    const dropout_key other{5, 10};
    s.model->forward(batch.tokens(), &other);
    CHECK(s.model->loss(labels, true) != base);
    s.model->forward(batch.tokens(), nullptr);
    CHECK(s.model->loss(labels, true) != base);

    // Each tensor along the signs of its gradient, where the slope is the sum of magnitudes. The padding row
    // gets no gradient, although the loss depends on it: sign 0.
    for (parameter& p : s.table.all()) {
      INFO(p.name);
      std::vector<float> direction(p.count), start(p.value.begin(), p.value.end());
      double slope = 0;
      for (std::size_t i = 0; i < p.count; ++i) {
        direction[i] = p.gradient[i] > 0 ? 1.0f : p.gradient[i] < 0 ? -1.0f : 0.0f;
        slope += std::abs(static_cast<double>(p.gradient[i]));
      }
      const float h = 2e-3f / static_cast<float>(std::sqrt(static_cast<double>(p.count)));
      const auto at = [&](float step) {
        for (std::size_t i = 0; i < p.count; ++i) p.value[i] = start[i] + step * direction[i];
        return loss();
      };
      // Fourth order, so that h can be large against f32's rounding.
      const double quotient =
          (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12.0 * static_cast<double>(h));
      std::ranges::copy(start, p.value.begin());
      CHECK(std::abs(quotient - slope) <= 0.02 * slope + 1e-3 * std::sqrt(static_cast<double>(p.count)));
    }
  }
}

TEST_CASE("the same bits after three steps for 1, 2, 3 and 7 threads, in every type") {
  const auto data = make_data(30);
  for (const dtype type : {dtype::f32, dtype::bf16, dtype::fp16}) {
    std::vector<float> expected;
    test::with_thread_counts([&](const einkorn::executor& executor) {
      const thread_count used(executor);
      setup s(0.1, type);
      trainer training(s.config, s.table, *s.model, data, small_options());
      for (int step = 0; step < 3; ++step) training.step();
      std::vector<float> weights;
      for (const parameter& p : s.table.all()) weights.insert(weights.end(), p.value.begin(), p.value.end());
      if (expected.empty()) expected = weights;
      CHECK(std::memcmp(expected.data(), weights.data(), weights.size() * sizeof(float)) == 0);
    });
  }
}

TEST_CASE("gradients are announced group by group in the order of the arena, and are final then") {
  const auto data = make_data(12);
  setup s(0.1);
  training_options options = small_options();
  options.accumulation = 2;
  trainer training(s.config, s.table, *s.model, data, options);
  std::vector<float> seen(s.table.gradients().size(), 0.0f);
  std::size_t next = 0, end = 0;
  training.gradients([&](std::size_t group) {
    CHECK(group == next++);
    const parameter_group g = s.table.groups()[group];
    CHECK(g.offset == end);
    end = g.offset + g.length;
    std::copy_n(s.table.gradients().begin() + static_cast<std::ptrdiff_t>(g.offset), g.length,
                seen.begin() + static_cast<std::ptrdiff_t>(g.offset));
  });
  CHECK(next == s.table.groups().size());  // once, with the last micro-batch
  CHECK(end == s.table.gradients().size());
  CHECK(norm(seen) > 0);
  CHECK(std::memcmp(seen.data(), s.table.gradients().data(), seen.size() * sizeof(float)) == 0);
}

TEST_CASE("micro-batches give the gradient of the whole batch, with the same dropout") {
  const auto data = make_data(12);
  for (const padding pad : {padding::max_length, padding::none}) {
    setup whole(0.1), parts(0.1);
    training_options options = small_options();
    options.pad = pad;
    options.max_length = 24;
    options.batch_size = 12;
    trainer one(whole.config, whole.table, *whole.model, data, options);
    const step_report a = one.gradients();
    for (const std::int64_t size : {1, 3, 5}) {
      options.batch_size = size;
      options.accumulation = (12 + size - 1) / size;
      trainer many(parts.config, parts.table, *parts.model, std::span(data).first(12), options);
      const step_report b = many.gradients();
      CHECK(b.samples == 12);
      CHECK(b.loss == doctest::Approx(a.loss).epsilon(1e-5));
      CHECK(distance(parts.table.gradients(), whole.table.gradients()) <=
            1e-5 * norm(whole.table.gradients()));
    }
  }
}

TEST_CASE("the state is complete: a second trainer that takes it over continues with the same bits") {
  const auto data = make_data(20);
  const auto weights_of = [](setup& s) {
    std::vector<float> weights;
    for (const parameter& p : s.table.all()) weights.insert(weights.end(), p.value.begin(), p.value.end());
    return weights;
  };
  for (const dtype type : {dtype::f32, dtype::bf16, dtype::fp16}) {
    setup a(0.1, type);
    training_options options = small_options();
    options.epochs = 3;
    trainer first(a.config, a.table, *a.model, data, options);
    for (int step = 0; step < 5; ++step) first.step();

    setup b(0.1, type);
    b.table.initialise(999);
    trainer second(b.config, b.table, *b.model, data, options);
    auto from = first.state(), to = second.state();
    REQUIRE(from.size() == to.size());
    std::set<std::string> names;
    for (std::size_t i = 0; i < from.size(); ++i) {
      REQUIRE(from[i].name == to[i].name);
      REQUIRE(from[i].bytes.size() == to[i].bytes.size());
      CHECK(names.insert(from[i].name).second);
      std::ranges::copy(from[i].bytes, to[i].bytes.begin());
    }
    second.state_restored();
    while (!first.finished()) {
      const step_report x = first.step(), y = second.step();
      CHECK(x.loss == y.loss);
      CHECK(x.learning_rate == y.learning_rate);
    }
    CHECK(second.finished());
    CHECK(weights_of(a) == weights_of(b));
  }
}

TEST_CASE("after the first step of the largest batch nothing is allocated") {
  static einkorn::allocator usual;
  static int allocations;
  allocations = 0;
  usual = einkorn::set_allocator(
      {nullptr,
       [](void*, einkorn::index bytes) {
         ++allocations;
         return usual.allocate(usual.context, bytes);
       },
       [](void*, void* memory, einkorn::index bytes) { usual.release(usual.context, memory, bytes); }});
  {
    const thread_count used(einkorn::serial_executor());
    const auto data = make_data(20);
    setup s(0.1, dtype::bf16);
    training_options options = small_options();
    options.pad = padding::max_length;
    options.max_length = 24;
    trainer training(s.config, s.table, *s.model, data, options);
    training.step();
    const int first = allocations;
    CHECK(first > 0);
    for (int step = 0; step < 3; ++step) training.step();
    CHECK(allocations == first);
  }
  einkorn::set_allocator(usual);
}

TEST_CASE("a small model learns, in every type") {
  if (test::quick()) return;
  const auto data = make_data(60);
  for (const dtype type : {dtype::f32, dtype::bf16, dtype::fp16}) {
    setup s(0, type);
    training_options options = small_options();
    options.epochs = 12;
    options.learning_rate = 3e-3;
    trainer training(s.config, s.table, *s.model, data, options);
    double first = 0, last = 0;
    while (!training.finished()) {
      const step_report r = training.step();
      if (r.step <= 10) first += r.loss / 10;
      if (r.step > training.total_steps() - 10) last += r.loss / 10;
    }
    CHECK(first > 2);
    CHECK(last < 0.5 * first);
  }
}

TEST_CASE("a step whose gradients are not finite changes nothing but the position in the data") {
  const auto data = make_data(20);
  setup s(0.1);
  trainer training(s.config, s.table, *s.model, data, small_options());
  const step_report before_it = training.step();
  CHECK(before_it.learning_rate == doctest::Approx(1e-2));
  parameter& gamma = s.table.all()[s.table.index_of("bert.embeddings.LayerNorm.weight")];
  const float kept = gamma.value[3];
  gamma.value[3] = std::numeric_limits<float>::infinity();
  const std::vector<float> before(gamma.value.begin(), gamma.value.end());
  const step_report bad = training.step();
  CHECK(bad.skipped);
  CHECK(training.skipped_steps() == 1);
  CHECK(std::equal(before.begin(), before.end(), gamma.value.begin()));
  gamma.value[3] = kept;
  s.model->weights_changed();
  const step_report good = training.step();
  CHECK(!good.skipped);
  CHECK(good.learning_rate == bad.learning_rate);  // the schedule did not advance
  CHECK(good.step == 3);
  // A loss that is none is no part of the means.
  CHECK(!std::isfinite(bad.loss));
  CHECK(training.mean_loss() == (before_it.loss + good.loss) / 2);
  CHECK(training.take_recent_loss() == training.mean_loss());
}

TEST_CASE("without a finite loss there is no mean; in fp16 a step that is skipped has one") {
  const auto data = make_data(20);
  {
    setup s(0.1);
    trainer training(s.config, s.table, *s.model, data, small_options());
    for (parameter& p : s.table.all())
      if (p.name == "qa_outputs.weight") p.value[0] = std::numeric_limits<float>::quiet_NaN();
    CHECK(training.step().skipped);
    CHECK(std::isnan(training.mean_loss()));
    CHECK(std::isnan(training.take_recent_loss()));
  }
  setup s(0.1, dtype::fp16);
  training_options options = small_options();
  options.loss_scale.initial = 1e30f;
  trainer training(s.config, s.table, *s.model, data, options);
  const step_report skipped = training.step();
  CHECK(skipped.skipped);
  CHECK(training.mean_loss() == skipped.loss);
}

TEST_CASE("epochs are counted in micro-batches, and those that are begun, as Trainer does") {
  const auto data = make_data(12);
  setup s(0.1);
  training_options options = small_options();
  options.batch_size = 5;
  options.accumulation = 2;
  trainer training(s.config, s.table, *s.model, data, options);
  for (const double expected : {2.0 / 3, 1.0, 5.0 / 3, 2.0}) {
    training.step();
    CHECK(training.epoch() == doctest::Approx(expected).epsilon(1e-12));
  }
  CHECK(training.finished());
  const auto begun = [&](double epochs, std::int64_t max_steps) {
    options.epochs = epochs;
    options.max_steps = max_steps;
    return trainer(s.config, s.table, *s.model, data, options).epochs();
  };
  CHECK(begun(2, 0) == 2);
  CHECK(begun(1.25, 0) == 2);
  CHECK(begun(0.1, 0) == 1);
  CHECK(begun(7, 2) == 1);
  CHECK(begun(7, 3) == 2);
}

TEST_CASE("gradient checkpointing: the same bits, in every type, whatever the padding, with micro-batches") {
  const auto data = make_data(30);
  for (const dtype type : {dtype::f32, dtype::bf16, dtype::fp16}) {
    for (const padding pad : {padding::max_length, padding::none}) {
      std::vector<float> expected;
      double expected_loss = 0;
      for (const bool checkpointing : {false, true}) {
        bert_config config = tiny_config(0.1);
        config.num_hidden_layers = 5;
        parameter_table table(config, type);
        table.initialise(3);
        const auto model = make_bert(config, table, {.gradient_checkpointing = checkpointing});
        training_options options = small_options();
        options.pad = pad;
        options.max_length = 24;
        options.accumulation = 2;
        trainer training(config, table, *model, data, options);
        double loss = 0;
        for (int step = 0; step < (test::quick() ? 2 : 3); ++step) loss = training.step().loss;
        const auto weights = values_of(table);
        if (!checkpointing) {
          expected = weights;
          expected_loss = loss;
        }
        CHECK(loss == expected_loss);
        CHECK(std::memcmp(expected.data(), weights.data(), weights.size() * sizeof(float)) == 0);
      }
    }
  }
}

TEST_CASE("int8: logits near those of f32 at every level; such a model is not trained") {
  const testing_levels levels;
  const auto data = make_data(8);
  batch_builder batch;
  const std::vector<std::int32_t> all = {0, 1, 2, 3, 4, 5, 6, 7};
  batch.build(data, all, 0, padding::none, 0, 0);
  test::on_each_level([&](einkorn::isa) {
    for (const dtype type : {dtype::f32, dtype::bf16, dtype::fp16}) {
      setup s(0.1, type);
      const auto wide = s.model->forward(batch.tokens(), nullptr);
      const std::vector<float> exact(wide.data, wide.data + wide.rows * 2);
      s.model->use_int8();
      const auto bytes = s.model->forward(batch.tokens(), nullptr);
      const std::vector<float> got(bytes.data, bytes.data + bytes.rows * 2);
      const double error = distance(exact, got) / norm(exact);
      CHECK(!(error > 0.05));
      CHECK(error > 1e-4);  // bytes, not the other path
      const dropout_key key{1, 1};
      CHECK_THROWS_AS(s.model->forward(batch.tokens(), &key), std::logic_error);
    }
  });
}

TEST_CASE("without padding: the loss and the gradients of the padded batch with its padding masked") {
  // over_padding false is padded logits at minus infinity: softmax over the real tokens. The dropout masks
  // are keyed by the place in the sample, so they are the same with dropout on.
  const auto data = make_data(9);
  const std::vector<std::int32_t> all = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  for (const double p : {0.0, 0.2}) {
    setup padded(p), packed(p);
    batch_builder wide, narrow;
    wide.build(data, all, 4, padding::max_length, 30, 0);
    narrow.build(data, all, 4, padding::none, 0, 0);
    CHECK(wide.tokens().rows() > narrow.tokens().rows());
    const dropout_key key{5, 9};
    span_labels labels = wide.labels();
    labels.start_divisor = labels.end_divisor = 9;
    padded.table.clear_gradients();
    packed.table.clear_gradients();
    padded.model->forward(wide.tokens(), &key);
    const double loss = padded.model->loss(labels, false);
    packed.model->forward(narrow.tokens(), &key);
    CHECK(packed.model->loss(labels, true) == doctest::Approx(loss).epsilon(1e-6));
    padded.model->backward();
    packed.model->backward();
    CHECK(distance(padded.table.gradients(), packed.table.gradients()) <=
          1e-5 * norm(packed.table.gradients()));
  }
}

TEST_CASE("the plan of memory names all that is allocated, and checkpointing takes less") {
  static einkorn::allocator usual;
  static std::int64_t held;
  held = 0;
  usual = einkorn::set_allocator({nullptr,
                                  [](void*, einkorn::index bytes) {
                                    held += bytes;
                                    return usual.allocate(usual.context, bytes);
                                  },
                                  [](void*, void* memory, einkorn::index bytes) {
                                    held -= bytes;
                                    usual.release(usual.context, memory, bytes);
                                  }});
  const auto total = [](const std::vector<memory_use>& uses) {
    std::int64_t sum = 0;
    for (const memory_use& use : uses) sum += static_cast<std::int64_t>(use.bytes);
    return sum;
  };
  std::int64_t needed[2];
  for (const bool checkpointing : {false, true}) {
    const thread_count used(einkorn::serial_executor());
    bert_config config = tiny_config(0.1);
    config.num_hidden_layers = 6;
    config.hidden_size = test::quick() ? 48 : 96;
    config.intermediate_size = 4 * config.hidden_size;
    const auto data = make_data(40);
    const std::int64_t before = held;
    parameter_table table(config, dtype::bf16);
    table.initialise(3);
    const auto model = make_bert(config, table, {.gradient_checkpointing = checkpointing});
    trainer training(config, table, *model, data, small_options());
    training.step();
    // What the library keeps as scratch memory of the thread is beside the plan.
    CHECK(held - before >= total(table.memory()) + total(model->memory()));
    CHECK(static_cast<double>(held - before) <=
          1.1 * static_cast<double>(total(table.memory()) + total(model->memory())) + 1e6);
    needed[checkpointing] = 0;
    for (const memory_use& use : model->memory())
      if (use.purpose.starts_with("activations"))
        needed[checkpointing] += static_cast<std::int64_t>(use.bytes);
  }
  CHECK(needed[1] > 0);
  CHECK(needed[1] < needed[0] / 2);
  einkorn::set_allocator(usual);
}

TEST_CASE("batches by length: a permutation whose batches are alike, another one every epoch") {
  const auto data = make_data(103);
  const auto order = permutation_by_length(data, 6, 42, 0);
  CHECK(order == permutation_by_length(data, 6, 42, 0));
  CHECK(order != permutation_by_length(data, 6, 42, 1));
  CHECK(order != permutation_by_length(data, 6, 43, 0));
  auto sorted = order;
  std::ranges::sort(sorted);
  for (std::int32_t i = 0; i < 103; ++i) CHECK(sorted[static_cast<std::size_t>(i)] == i);
  const auto padding_of = [&](const std::vector<std::int32_t>& numbers) {
    std::int64_t rows = 0;
    for (std::size_t first = 0; first < numbers.size(); first += 6) {
      const std::size_t end = std::min(numbers.size(), first + 6);
      std::int32_t longest = 0;
      for (std::size_t i = first; i < end; ++i)
        longest = std::max(longest, data[static_cast<std::size_t>(numbers[i])].size());
      for (std::size_t i = first; i < end; ++i)
        rows += longest - data[static_cast<std::size_t>(numbers[i])].size();
    }
    return rows;
  };
  CHECK(padding_of(order) < padding_of(permutation(103, 42, 0)) / 3);
  // Not sorted as a whole: the lengths of neighbouring batches rise as often as they fall, about.
  int rising = 0;
  for (std::size_t first = 6; first + 6 <= order.size(); first += 6)
    rising += data[static_cast<std::size_t>(order[first])].size() >
              data[static_cast<std::size_t>(order[first - 6])].size();
  CHECK(rising >= 3);

  setup s(0.1);
  training_options options = small_options();
  options.group_by_length = true;
  trainer training(s.config, s.table, *s.model, data, options);
  std::int64_t samples = 0;
  while (!training.finished()) samples += training.step().samples;
  CHECK(samples == 206);
}

TEST_CASE("fp16: gradients are those of f32 whatever the loss scale; overflows halve it and change nothing") {
  const auto data = make_data(20);
  training_options options = small_options();
  setup wide(0.1);
  trainer exact(wide.config, wide.table, *wide.model, data, options);
  const step_report expected = exact.gradients();

  setup s(0.1, dtype::fp16);
  trainer training(s.config, s.table, *s.model, data, options);
  step_report report = training.gradients();
  CHECK(report.loss_scale == 65536);
  CHECK(report.loss == doctest::Approx(expected.loss).epsilon(2e-3));
  std::vector<float> unscaled(s.table.gradients().begin(), s.table.gradients().end());
  for (float& g : unscaled) g /= 65536.0f;
  CHECK(distance(unscaled, wide.table.gradients()) <= 0.01 * norm(wide.table.gradients()));
  training.update(report);
  CHECK(!report.skipped);
  CHECK(report.gradient_norm == doctest::Approx(norm(unscaled)).epsilon(1e-6));

  // A scale at which fp16 overflows: it falls, step by step, until the gradients are finite again.
  setup high(0.1, dtype::fp16);
  options.loss_scale = {.initial = 0x1p24f, .growth_interval = 2};
  options.epochs = 10;
  trainer falling(high.config, high.table, *high.model, data, options);
  const auto weights_of = [&] {
    std::vector<float> weights;
    for (const parameter& p : high.table.all()) weights.insert(weights.end(), p.value.begin(), p.value.end());
    return weights;
  };
  const auto before = weights_of();
  std::int64_t skipped = 0;
  for (step_report r = falling.step(); r.skipped; r = falling.step()) {
    ++skipped;
    CHECK(weights_of() == before);
    CHECK(falling.loss_scale() == 0x1p24 / static_cast<double>(std::int64_t{1} << skipped));
    CHECK(r.learning_rate == doctest::Approx(1e-2));
    REQUIRE(skipped < 20);
  }
  CHECK(skipped > 0);
  CHECK(falling.skipped_steps() == skipped);
  CHECK(weights_of() != before);
}

TEST_CASE("the epoch's order is a permutation, another one every epoch") {
  const auto a = permutation(1000, 42, 0), b = permutation(1000, 42, 1), c = permutation(1000, 43, 0);
  CHECK(a == permutation(1000, 42, 0));
  CHECK(a != b);
  CHECK(a != c);
  auto sorted = a;
  std::ranges::sort(sorted);
  for (std::int32_t i = 0; i < 1000; ++i) CHECK(sorted[static_cast<std::size_t>(i)] == i);
  CHECK(permutation(1, 42, 0) == std::vector<std::int32_t>{0});
}

TEST_CASE("steps and learning rates as Transformers counts them") {
  const auto data = make_data(20);
  setup s(0);
  training_options options = small_options();  // 20 features, batch 6: 4 steps an epoch
  trainer two(s.config, s.table, *s.model, data, options);
  CHECK(two.steps_per_epoch() == 4);
  CHECK(two.total_steps() == 8);
  CHECK(two.learning_rate_at(0) == doctest::Approx(1e-2));
  CHECK(two.learning_rate_at(6) == doctest::Approx(1e-2 * 2 / 8));
  options.warmup_steps = 2;
  trainer warm(s.config, s.table, *s.model, data, options);
  CHECK(warm.learning_rate_at(0) == 0);
  CHECK(warm.learning_rate_at(1) == doctest::Approx(5e-3));
  CHECK(warm.learning_rate_at(2) == doctest::Approx(1e-2));
  CHECK(warm.learning_rate_at(5) == doctest::Approx(5e-3));
  options.schedule = lr_schedule::cosine;
  trainer cosine(s.config, s.table, *s.model, data, options);
  CHECK(cosine.learning_rate_at(5) == doctest::Approx(5e-3));
  CHECK(cosine.learning_rate_at(8) == doctest::Approx(0).scale(1e-2));
  options.max_steps = 3;
  trainer three(s.config, s.table, *s.model, data, options);
  CHECK(three.total_steps() == 3);
}

TEST_CASE("Philox4x32-10 as in the known answers of its authors; initial weights are N(0, range^2)") {
  // Random123's kat_vectors: counter 0, key 0; and the digits of pi.
  const auto zero = philox4x32(0, {{0, 0, 0, 0}});
  CHECK(zero.word[0] == 0x6627e8d5u);
  CHECK(zero.word[1] == 0xe169c58du);
  CHECK(zero.word[2] == 0xbc57ac4cu);
  CHECK(zero.word[3] == 0x9b00dbd8u);
  const auto pi = philox4x32(0x299f31d0a4093822u, {{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}});
  CHECK(pi.word[0] == 0xd16cfe09u);
  CHECK(pi.word[1] == 0x94fdccebu);
  CHECK(pi.word[2] == 0x5001e420u);
  CHECK(pi.word[3] == 0x24126ea1u);

  const int n = 100000;
  double sum = 0, squares = 0, fourth = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double x = normal(1, "a", i);
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  CHECK(std::abs(sum / n) < 0.015);
  CHECK(squares / n == doctest::Approx(1).epsilon(0.02));
  CHECK(fourth / n == doctest::Approx(3).epsilon(0.06));
  CHECK(normal(1, "a", 0) != normal(1, "b", 0));
  CHECK(normal(1, "a", 0) != normal(2, "a", 0));
}
