// Windows and labels against tests/data/features.json, which tests/fixtures/make_squad_fixture.py made with
// the Rust tokenizer of Transformers.
#include "features.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "input_error.hpp"
#include "text_fixture.hpp"
#include "unicode.hpp"

using bert_qa::example;
using bert_qa::feature;
using bert_qa::feature_options;
using bert_qa::input_error;

namespace {

bert_qa::tokenizer make_tokenizer() { return {test_data("vocab.txt"), {}, "vocab.txt"}; }

std::string message(const std::vector<example>& examples, const feature_options& options) {
  try {
    make_features(examples, make_tokenizer(), options);
  } catch (const input_error& error) {
    return error.what();
  }
  return "";
}

std::string joined(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += (i > 0 ? " the" : "the");
  return out;
}

}  // namespace

TEST_CASE("windows, offsets and labels equal the reference's") {
  const nlohmann::json fixture = test_json("features.json");
  const std::vector<example> examples = fixture_examples(fixture);
  const bert_qa::tokenizer words = make_tokenizer();
  std::size_t windows = 0, labelled = 0;
  for (const auto& set : fixture["sets"]) {
    const feature_options options{set["max_seq_length"].get<std::int32_t>(),
                                  set["doc_stride"].get<std::int32_t>()};
    CAPTURE(options.max_seq_length);
    const std::vector<feature> features = make_features(examples, words, options);
    REQUIRE(features.size() == set["features"].size());
    for (std::size_t i = 0; i < features.size(); ++i) {
      const feature& f = features[i];
      const auto& expected = set["features"][i];
      CAPTURE(i);
      CHECK(f.example == expected[0].get<std::int32_t>());
      CHECK(f.context_begin == expected[1].get<std::int32_t>());
      CHECK(f.start_position == expected[2].get<std::int32_t>());
      CHECK(f.end_position == expected[3].get<std::int32_t>());
      CHECK(f.input_ids == expected[4].get<std::vector<std::int32_t>>());
      REQUIRE(f.offsets.size() == f.input_ids.size());
      REQUIRE(f.token_type_ids.size() == f.input_ids.size());
      CHECK(f.context_end == f.size() - 1);
      std::vector<std::int32_t> flat;
      std::int32_t before = 0;
      for (std::int32_t t = 0; t < f.size(); ++t) {
        const bert_qa::offset& where = f.offsets[static_cast<std::size_t>(t)];
        CHECK(f.token_type_ids[static_cast<std::size_t>(t)] == (t >= f.context_begin ? 1 : 0));
        CHECK((where != bert_qa::offset{}) == f.is_context(t));
        if (!f.is_context(t)) continue;
        flat.insert(flat.end(), {where.begin - before, where.end - where.begin});
        before = where.end;
      }
      CHECK(flat == expected[5].get<std::vector<std::int32_t>>());
      ++windows;
      labelled += f.start_position > 0 ? 1u : 0u;
    }
  }
  CHECK(windows > 400);
  CHECK(labelled > 80);
}

TEST_CASE("the answer in the last token of a window starts there, not at [SEP]") {
  const std::vector<example> examples = {{"a", "", "the", "house the tree", {{"tree", 10}}, false}};
  const auto features = make_features(examples, make_tokenizer(), {16, 2});
  REQUIRE(features.size() == 1);
  CHECK(features[0].start_position == features[0].context_end - 1);
  CHECK(features[0].end_position == features[0].context_end - 1);
}

TEST_CASE("what cannot be cut into windows is an error") {
  const auto flags = [](std::int32_t length, std::int32_t stride) {
    return message({{"a", "", "", "", {}, false}}, {length, stride});
  };
  CHECK(flags(384, 128) == "");
  CHECK(flags(384, 380) == "");
  CHECK(flags(384, 381) ==
        "--doc_stride: expected less than the window of 381 tokens (--max_seq_length 384 less 3), found 381");
  CHECK(flags(384, -1) == "--doc_stride: expected 0 or more, found -1");
  CHECK(flags(3, 0) == "--max_seq_length: expected more than the 3 special tokens, found 3");
  CHECK(flags(-5, 0) == "--max_seq_length: expected more than the 3 special tokens, found -5");
  // a question of 10 tokens leaves 3 of 16
  const auto question = [](int tokens, int context, std::int32_t stride) {
    return message({{"a\nb", "", joined(tokens), joined(context), {}, false}}, {16, stride});
  };
  CHECK(question(10, 20, 2) == "");
  CHECK(question(10, 3, 9) == "");  // nothing to cut: no overlap needed
  CHECK(question(10, 20, 3) ==
        "question \"a\\x0ab\": expected at most 9 tokens (--max_seq_length 16, --doc_stride 3), found 10");
  CHECK(question(12, 20, 0) == "");
  CHECK(question(13, 20, 0) != "");
  CHECK(question(13, 0, 0) == "");
  CHECK(question(14, 0, 0) != "");
  CHECK(question(5000, 1, 0) != "");
}

TEST_CASE("real data: as many features as Transformers makes") {
  const char* squad = std::getenv("EINKORN_SQUAD_DIR");
  const char* model = std::getenv("EINKORN_MODEL_DIR");
  if (squad == nullptr || model == nullptr) {
    const char* required = std::getenv("EINKORN_TEST_REQUIRE");
    CHECK_FALSE((required != nullptr && std::string(required).find("squad") != std::string::npos));
    MESSAGE(
        "SKIPPED 1 of 4 cases: EINKORN_SQUAD_DIR (with dev-v1.1.json) and EINKORN_MODEL_DIR (with the "
        "vocab.txt of bert-base-uncased) are not set");
    return;
  }
  const std::string file = std::string(squad) + "/dev-v1.1.json",
                    vocabulary = std::string(model) + "/vocab.txt";
  const auto examples = bert_qa::parse_squad(read_bytes(file), file, true);
  CHECK(examples.size() == 10570);
  const bert_qa::tokenizer words(read_bytes(vocabulary), {}, vocabulary);
  const auto features = make_features(examples, words, {384, 128});
  CHECK(features.size() == 10784);
  MESSAGE(features.size(), " features");
}
