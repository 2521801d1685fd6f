// The parameter table: its layout, and what it takes from files of others.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "files.hpp"
#include "input_error.hpp"
#include "parameters.hpp"
#include "safetensors.hpp"
#include "scratch_folder.hpp"

namespace {

using namespace bert_qa;
using einkorn::dtype;

bert_config tiny_config() {
  bert_config config;
  config.hidden_size = 12;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 3;
  config.intermediate_size = 20;
  config.vocab_size = 11;
  config.max_position_embeddings = 8;
  return config;
}

/// A file with `change` applied to each tensor of a table that was initialised with seed 5; an empty name
/// leaves the tensor out.
template <class Change>
std::string file_with(const scratch_folder& folder, const parameter_table& table, const Change& change) {
  std::vector<tensor_view> views;
  for (tensor_view view : table.views()) {
    change(view);
    if (!view.name.empty()) views.push_back(view);
  }
  write_safetensors(folder / "model.safetensors", views);
  return read_file(folder / "model.safetensors");
}

std::vector<float> all_values(const parameter_table& table) {
  std::vector<float> values;
  for (const parameter& p : table.all()) values.insert(values.end(), p.value.begin(), p.value.end());
  return values;
}

}  // namespace

TEST_CASE("the table: no overlap, groups in the arena's order, query, key and value side by side") {
  parameter_table table(tiny_config(), dtype::bf16);
  std::size_t end = 0, count = 0;
  std::set<std::string> names;
  for (const parameter& p : table.all()) {
    CHECK(names.insert(p.name).second);
    CHECK(p.offset >= end);
    end = p.offset + p.count;
    count += p.count;
    CHECK(p.value.size() == p.count);
    CHECK(p.gradient.size() == p.count);
    const bool matrix = p.shape.size() == 2;
    CHECK(p.decay == matrix);
  }
  CHECK(table.count() == count);
  // 2 layers of 4 H x H, 2 H x I with biases and two normalisations; tables and their normalisation; the
  // head.
  CHECK(count == 2 * (4 * 12 * 12 + 2 * 12 * 20 + 4 * 12 + 20 + 12 + 4 * 12) + (11 + 8 + 2) * 12 + 2 * 12 +
                     2 * 12 + 2);
  for (const char* part : {"weight", "bias"}) {
    const std::string p = "bert.encoder.layer.1.attention.self.";
    const parameter &q = table.at(p + "query." + part), &k = table.at(p + "key." + part),
                    &v = table.at(p + "value." + part);
    CHECK(q.value.data() + q.count == k.value.data());
    CHECK(k.gradient.data() + k.count == v.gradient.data());
  }
  CHECK(table.all().front().name == "qa_outputs.weight");
  CHECK(table.groups().size() == 6);
  CHECK_THROWS_AS(table.at("bert.pooler.dense.weight"), std::out_of_range);
}

TEST_CASE("a file of an encoder alone, with other names: the head is initialised, and that is said") {
  const scratch_folder folder;
  parameter_table written(tiny_config(), dtype::f32), read(tiny_config(), dtype::f32),
      initial(tiny_config(), dtype::f32);
  written.initialise(5);
  initial.initialise(6);
  const std::vector<float> pooler(12, 1.0f);
  const std::string bytes = file_with(folder, written, [&](tensor_view& t) {
    if (t.name.starts_with("qa_outputs.")) {
      t.name = t.name.ends_with("bias") ? "pooler.dense.bias" : "";
      t.shape = {12};
      t.bytes = std::as_bytes(std::span(pooler));
      return;
    }
    t.name = t.name.substr(5);  // without "bert."
    if (const auto at = t.name.find("LayerNorm.weight"); at != std::string::npos)
      t.name.replace(at + 10, 6, "gamma");
    if (const auto at = t.name.find("LayerNorm.bias"); at != std::string::npos)
      t.name.replace(at + 10, 4, "beta");
  });
  const safetensors file(std::as_bytes(std::span(bytes)), "m");
  parameter_table::check(tiny_config(), file, "m");
  const auto notes = read.load(file, "m", 6);
  REQUIRE(notes.size() == 2);
  CHECK(contains(notes[0], "qa_outputs.weight, qa_outputs.bias"));
  CHECK(contains(notes[1], "pooler.dense.bias"));
  for (const parameter& p : read.all()) {
    INFO(p.name);
    const parameter_table& expected = p.name.starts_with("qa_outputs.") ? initial : written;
    CHECK(std::ranges::equal(p.value, expected.at(p.name).value));
  }
}

TEST_CASE("what is missing, or has another shape or type, is named, and nothing is taken over then") {
  const scratch_folder folder;
  parameter_table written(tiny_config(), dtype::f32), table(tiny_config(), dtype::f32);
  written.initialise(5);
  table.initialise(6);
  const auto before = all_values(table);
  const std::string name = "bert.encoder.layer.1.output.dense.weight";
  const auto message = [&](auto&& change) {
    const std::string bytes = file_with(folder, written, [&](tensor_view& t) {
      if (t.name == name) change(t);
    });
    const safetensors file(std::as_bytes(std::span(bytes)), "m");
    const auto text = message_of<input_error>([&] { table.load(file, "m", 7); });
    CHECK(text == message_of<input_error>([&] { parameter_table::check(tiny_config(), file, "m"); }));
    return text;
  };
  for (const std::string& text :
       {message([](tensor_view& t) { t.name.clear(); }), message([](tensor_view& t) {
          t.shape = {20, 12};
        }),
        message([](tensor_view& t) { t.dtype = "I32"; })}) {
    CHECK(contains(text, name));
    CHECK(contains(text, "expected"));
    CHECK(all_values(table) == before);
  }

  // Terabytes are not asked for before the shapes are compared.
  const std::string bytes = file_with(folder, written, [](tensor_view&) {});
  bert_config huge = tiny_config();
  huge.vocab_size = std::int64_t{1} << 40;
  CHECK(contains(message_of<input_error>([&] {
                   parameter_table::check(huge, safetensors(std::as_bytes(std::span(bytes)), "m"), "m");
                 }),
                 "word_embeddings.weight\" of shape [1099511627776, 12], found [11, 12]"));
}

TEST_CASE("initial values depend on the seed alone") {
  parameter_table a(tiny_config(), dtype::f32), b(tiny_config(), dtype::bf16);
  a.initialise(5);
  b.initialise(5);
  CHECK(all_values(a) == all_values(b));
  b.initialise(6);
  CHECK(all_values(a) != all_values(b));
  for (const parameter& p : b.all()) {
    if (p.name.ends_with("bias"))
      CHECK(std::ranges::all_of(p.value, [](float v) { return v == 0; }));
    else if (p.name.ends_with("LayerNorm.weight"))
      CHECK(std::ranges::all_of(p.value, [](float v) { return v == 1; }));
  }
  const auto words = b.at("bert.embeddings.word_embeddings.weight").value;
  CHECK(std::ranges::all_of(words.first(12), [](float v) { return v == 0; }));  // [PAD]
}
