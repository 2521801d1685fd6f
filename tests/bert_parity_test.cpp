// A whole training step of a small BERT against PyTorch in float64 (fixtures/make_bert_fixture.py): logits,
// loss, the gradient of every parameter, and the weights after ten AdamW steps; at every level.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bert.hpp"
#include "files.hpp"
#include "parameters.hpp"
#include "safetensors.hpp"
#include "support.hpp"

namespace {

using namespace bert_qa;
using einkorn::dtype;

bert_config small_config() {
  bert_config config;
  config.hidden_size = 40;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.intermediate_size = 72;
  config.vocab_size = 61;
  config.max_position_embeddings = 24;
  config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0;
  return config;
}

struct fixture {
  std::string bytes = read_file(EINKORN_TEST_DATA "/bert_step.safetensors");
  safetensors file{std::as_bytes(std::span(bytes)), "bert_step.safetensors"};

  std::vector<float> floats(const std::string& name) const {
    const tensor_view& t = file.at(name);
    std::vector<float> values(static_cast<std::size_t>(t.count()));
    REQUIRE(t.bytes.size() == values.size() * sizeof(float));
    std::memcpy(values.data(), t.bytes.data(), t.bytes.size());
    return values;
  }
  std::vector<std::int32_t> integers(const std::string& name) const {
    const tensor_view& t = file.at(name);
    std::vector<std::int64_t> wide(static_cast<std::size_t>(t.count()));
    REQUIRE(t.bytes.size() == wide.size() * sizeof(std::int64_t));
    std::memcpy(wide.data(), t.bytes.data(), t.bytes.size());
    return {wide.begin(), wide.end()};
  }

  void put_weights(parameter_table& table) const {
    for (parameter& p : table.all()) {
      const auto values = floats("weight." + p.name);
      REQUIRE(values.size() == p.count);
      std::ranges::copy(values, p.value.begin());
    }
  }
};

/// The fixture's batch, padded as it is or without its padding.
struct fixture_batch {
  std::vector<std::int32_t> ids, types, starts, ends;
  std::vector<einkorn::sequence> sequences;

  fixture_batch(const fixture& f, bool padded) {
    const auto all_ids = f.integers("input.ids"), all_types = f.integers("input.types"),
               mask = f.integers("input.mask");
    starts = f.integers("input.starts");
    ends = f.integers("input.ends");
    const std::size_t n = starts.size(), width = all_ids.size() / n;
    for (std::size_t i = 0; i < n; ++i) {
      std::int32_t keys = 0;
      for (std::size_t t = 0; t < width; ++t) keys += mask[i * width + t];
      const auto rows = padded ? width : static_cast<std::size_t>(keys);
      sequences.push_back({.first_row = static_cast<einkorn::index>(ids.size()),
                           .rows = static_cast<std::int32_t>(rows),
                           .keys = keys,
                           .sample = static_cast<std::uint32_t>(i)});
      for (std::size_t t = 0; t < rows; ++t) {
        ids.push_back(all_ids[i * width + t]);
        types.push_back(all_types[i * width + t]);
      }
    }
  }
  token_batch tokens() const { return {ids, types, sequences}; }
  span_labels labels() const {  // the last start is outside
    return {starts, ends, static_cast<double>(starts.size() - 1), static_cast<double>(ends.size())};
  }
};

double norm(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}
double distance(std::span<const float> x, std::span<const float> y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    sum += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
  return std::sqrt(sum);
}

/// Tensors whose gradient is 0 in theory: AdamW turns the noise in it into steps of the size lr.
bool has_no_gradient(const std::string& name) {
  return name.ends_with("self.key.bias") || name == "qa_outputs.bias" ||
         name == "bert.encoder.layer.1.output.LayerNorm.bias";
}

struct adamw_run {
  std::vector<einkorn::adamw_tensor> tensors;
  std::vector<std::span<const float>> gradients;

  explicit adamw_run(parameter_table& table) {
    for (const parameter& p : table.all()) {
      gradients.push_back(p.gradient);
      tensors.push_back({.param = p.value.data(),
                         .grad = p.gradient.data(),
                         .m = p.m.data(),
                         .v = p.v.data(),
                         .n = static_cast<einkorn::index>(p.count),
                         .decay = p.decay});
    }
  }
  double update(int t) {
    const double total = einkorn::gradient_norm(gradients);
    einkorn::adamw(tensors,
                   {.lr = 1e-3, .weight_decay = 0.01, .t = t, .grad_scale = einkorn::clip_scale(total, 1)});
    return total;
  }
};

}  // namespace

TEST_CASE("a step in f32 equals PyTorch's") {
  const fixture f;
  const fixture_batch batch(f, true);
  const auto losses = f.floats("losses"), norms = f.floats("norms"), logits = f.floats("logits");
  test::on_each_level([&](einkorn::isa) {
    parameter_table table(small_config(), dtype::f32);
    f.put_weights(table);
    const auto model = make_bert(small_config(), table);
    adamw_run optimizer(table);
    const dropout_key key;
    for (int step = 1; step <= 10; ++step) {
      INFO("step ", step);
      table.clear_gradients();
      const auto out = model->forward(batch.tokens(), &key);
      const double loss = model->loss(batch.labels(), true);
      CHECK(!(std::abs(loss - losses[static_cast<std::size_t>(step - 1)]) > 2e-4));
      if (step == 1) {
        CHECK(!(distance({out.data, logits.size()}, logits) > 1e-5 * norm(logits)));
        CHECK(!(std::abs(loss - losses[0]) > 1e-5));
      }
      model->backward();
      if (step == 1) {
        double all = 0;
        for (const parameter& p : table.all()) all = std::hypot(all, norm(f.floats("gradient." + p.name)));
        for (const parameter& p : table.all()) {
          INFO(p.name);
          const auto expected = f.floats("gradient." + p.name);
          CHECK(!(distance(p.gradient, expected) > 1e-4 * norm(expected) + 1e-7 * all));
        }
      }
      CHECK(optimizer.update(step) ==
            doctest::Approx(norms[static_cast<std::size_t>(step - 1)]).epsilon(1e-3));
      model->weights_changed();
    }
    for (const parameter& p : table.all()) {
      INFO(p.name);
      const auto expected = f.floats("after." + p.name);
      if (has_no_gradient(p.name)) {
        for (std::size_t i = 0; i < p.count; ++i) CHECK(!(std::abs(p.value[i] - expected[i]) > 10 * 1e-3f));
      } else {
        CHECK(!(distance(p.value, expected) > 1e-4 * norm(expected)));
      }
    }
  });
}

TEST_CASE("a step in bf16 is near PyTorch's f64: loss within 2 %, gradients within 5 % of their norm") {
  const fixture f;
  const fixture_batch batch(f, true);
  const auto losses = f.floats("losses");
  test::on_each_level([&](einkorn::isa) {
    parameter_table table(small_config(), dtype::bf16);
    f.put_weights(table);
    const auto model = make_bert(small_config(), table);
    const dropout_key key;
    model->forward(batch.tokens(), &key);
    CHECK(model->loss(batch.labels(), true) == doctest::Approx(losses[0]).epsilon(0.02));
    model->backward();
    double all = 0;
    for (const parameter& p : table.all()) all = std::hypot(all, norm(f.floats("gradient." + p.name)));
    double error = 0;
    for (const parameter& p : table.all()) {
      INFO(p.name);
      const auto expected = f.floats("gradient." + p.name);
      const double d = distance(p.gradient, expected);
      error = std::hypot(error, d);
      CHECK(!(d > 0.05 * norm(expected) + 0.005 * all));
    }
    CHECK(error / all <= 0.05);

    adamw_run optimizer(table);
    double last = 0;
    for (int step = 1; step <= 10; ++step) {
      table.clear_gradients();
      model->forward(batch.tokens(), &key);
      last = model->loss(batch.labels(), true);
      model->backward();
      optimizer.update(step);
      model->weights_changed();
    }
    CHECK(last < 0.1);  // PyTorch's tenth loss is 0.031, from 2.96
  });
}

TEST_CASE("without padding: the loss over the real tokens equals PyTorch's") {
  const fixture f;
  parameter_table padded_table(small_config(), dtype::f32), packed_table(small_config(), dtype::f32);
  f.put_weights(padded_table);
  f.put_weights(packed_table);
  const auto padded_model = make_bert(small_config(), padded_table),
             packed_model = make_bert(small_config(), packed_table);
  const fixture_batch padded(f, true), packed(f, false);
  const dropout_key key;
  const auto expected = f.floats("loss.unpadded")[0];

  padded_model->forward(padded.tokens(), &key);
  CHECK(padded_model->loss(padded.labels(), false) == doctest::Approx(expected).epsilon(1e-5));
  padded_model->backward();
  packed_model->forward(packed.tokens(), &key);
  CHECK(packed_model->loss(packed.labels(), true) == doctest::Approx(expected).epsilon(1e-5));
  packed_model->backward();
  const double all = norm(padded_table.gradients());
  for (std::size_t i = 0; i < padded_table.all().size(); ++i) {
    const parameter &p = padded_table.all()[i], &q = packed_table.all()[i];
    INFO(p.name);
    CHECK(!(distance(p.gradient, q.gradient) > 1e-5 * norm(p.gradient) + 1e-7 * all));
  }
}

TEST_CASE("evaluation gives the logits of training without dropout") {
  const fixture f;
  for (const dtype type : {dtype::f32, dtype::bf16}) {
    parameter_table table(small_config(), type);
    f.put_weights(table);
    const auto model = make_bert(small_config(), table);
    const fixture_batch batch(f, true);
    const dropout_key key;
    const auto training = model->forward(batch.tokens(), &key);
    const std::vector<float> first(training.data, training.data + training.rows * 2);
    const auto evaluation = model->forward(batch.tokens(), nullptr);
    CHECK(std::memcmp(first.data(), evaluation.data, first.size() * sizeof(float)) == 0);
  }
}
