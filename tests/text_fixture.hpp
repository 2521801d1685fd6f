#pragma once

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "squad.hpp"

/// What the tests of the text side share: reading tests/data.
inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string test_data(const std::string& name) {
  return read_bytes(std::string(EINKORN_TEST_DATA) + "/" + name);
}

inline nlohmann::json test_json(const std::string& name) { return nlohmann::json::parse(test_data(name)); }

/// A tokenizer.json of BERT's that keeps upper case, without its vocabulary.
inline nlohmann::json cased_tokenizer_json() {
  return {{"normalizer",
           {{"type", "BertNormalizer"},
            {"clean_text", true},
            {"handle_chinese_chars", true},
            {"lowercase", false}}},
          {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
          {"model",
           {{"type", "WordPiece"},
            {"unk_token", "[UNK]"},
            {"continuing_subword_prefix", "##"},
            {"max_input_chars_per_word", 100}}}};
}

/// The key "examples" of the fixtures of make_squad_fixture.py.
inline std::vector<bert_qa::example> fixture_examples(const nlohmann::json& fixture) {
  std::vector<bert_qa::example> out;
  for (const auto& e : fixture["examples"]) {
    bert_qa::example& added = out.emplace_back();
    added.id = e["id"].get<std::string>();
    added.question = e["question"].get<std::string>();
    added.context = e["context"].get<std::string>();
    for (const auto& a : e["answers"]) {
      added.answers.push_back({a["text"].get<std::string>(), a["answer_start"].get<std::int64_t>()});
    }
  }
  return out;
}
