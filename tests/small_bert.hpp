#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "bert.hpp"
#include "parameters.hpp"
#include "trainer.hpp"

/// A BERT that trains in milliseconds, and something for it to learn.
namespace test {

using namespace bert_qa;
using einkorn::dtype;

inline bert_config tiny_config(double dropout) {
  bert_config config;
  config.hidden_size = 24;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 3;
  config.intermediate_size = 40;
  config.vocab_size = 50;
  config.max_position_embeddings = 32;
  config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout;
  config.initializer_range = 0.3;  // so that no gradient drowns in rounding
  return config;
}

/// Features of lengths 5 to 24 whose answer can be learned: it stands where the token 7 is.
inline std::vector<feature> make_data(int count) {
  std::vector<feature> data(static_cast<std::size_t>(count));
  std::uint32_t state = 12345;
  const auto next = [&](std::uint32_t below) {
    state = state * 1664525u + 1013904223u;
    return static_cast<std::int32_t>((state >> 8) % below);
  };
  for (feature& f : data) {
    const auto length = 5 + next(20);
    for (std::int32_t t = 0; t < length; ++t) {
      f.input_ids.push_back(8 + next(40));
      f.token_type_ids.push_back(t > length / 3 ? 1 : 0);
    }
    f.start_position = 1 + next(static_cast<std::uint32_t>(length - 2));
    f.end_position = std::min(length - 1, f.start_position + next(3));
    f.input_ids[static_cast<std::size_t>(f.start_position)] = 7;
    f.offsets.resize(f.input_ids.size());
  }
  return data;
}

struct setup {
  bert_config config;
  parameter_table table;
  std::unique_ptr<bert> model;

  explicit setup(double dropout, dtype type = dtype::f32)
      : config(tiny_config(dropout)), table(config, type), model(make_bert(config, table)) {
    table.initialise(3);
  }
};

inline std::vector<float> values_of(const parameter_table& table) {
  std::vector<float> values;
  for (const parameter& p : table.all()) values.insert(values.end(), p.value.begin(), p.value.end());
  return values;
}

inline training_options small_options() {
  return {.batch_size = 6, .epochs = 2, .learning_rate = 1e-2, .weight_decay = 0.01, .seed = 11};
}

}  // namespace test
