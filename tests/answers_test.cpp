// Answers against tests/data/answers.json: run_qa's postprocessing, written again in
// tests/fixtures/make_squad_fixture.py. The logits are eighths: exact, and full of ties.
#include "answers.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "input_error.hpp"
#include "text_fixture.hpp"

using bert_qa::answer_options;
using bert_qa::example;
using bert_qa::feature;
using bert_qa::feature_logits;
using nlohmann::ordered_json;

namespace {

struct two_rows {
  std::vector<float> start, end;
};

std::vector<feature_logits> views(const std::vector<two_rows>& rows) {
  std::vector<feature_logits> out;
  for (const two_rows& row : rows) out.push_back({row.start, row.end});
  return out;
}

// [CLS] q [SEP] five words [SEP]: context tokens 3 to 7 of "aa bb cc dd ee"
feature five_words() {
  feature f;
  f.input_ids.assign(9, 0);
  f.token_type_ids.assign(9, 0);
  f.offsets.assign(9, {});
  f.context_begin = 3;
  f.context_end = 8;
  for (std::int32_t i = 0; i < 5; ++i) f.offsets[static_cast<std::size_t>(3 + i)] = {3 * i, 3 * i + 2};
  return f;
}

const std::vector<example> one_example = {{"a", "", "q", "aa bb cc dd ee", {}, false}};

bert_qa::answer_set answer_one(const std::vector<float>& start, const std::vector<float>& end,
                               const answer_options& options) {
  const std::vector<feature> features = {five_words()};
  const std::vector<feature_logits> logits = {{start, end}};
  return find_answers(one_example, features, logits, options);
}

}  // namespace

TEST_CASE("predictions, n best and null odds equal the reference's") {
  const nlohmann::json fixture = test_json("answers.json");
  // the order of keys counts: they are to be written as Transformers writes them
  const ordered_json ordered = ordered_json::parse(test_data("answers.json"));
  const std::vector<example> examples = fixture_examples(fixture);
  const bert_qa::tokenizer words(test_data("vocab.txt"), {}, "vocab.txt");
  const auto features = make_features(
      examples, words,
      {fixture["max_seq_length"].get<std::int32_t>(), fixture["doc_stride"].get<std::int32_t>()});
  std::vector<two_rows> rows;
  for (const auto& pair : fixture["logits_in_eighths"]) {
    two_rows& row = rows.emplace_back();
    for (const auto& value : pair[0]) row.start.push_back(value.get<float>() / 8);
    for (const auto& value : pair[1]) row.end.push_back(value.get<float>() / 8);
  }
  const std::vector<feature_logits> logits = views(rows);
  REQUIRE(logits.size() == features.size());
  std::size_t entries = 0, invented = 0, without = 0;
  for (const ordered_json& run : ordered["runs"]) {
    const answer_options options{run["n_best"].get<std::int32_t>(),
                                 run["max_answer_length"].get<std::int32_t>(), run["v2"].get<bool>(),
                                 run["threshold"].get<double>()};
    CAPTURE(run["n_best"].dump());
    CAPTURE(options.version_2_with_negative);
    const bert_qa::answer_set found = find_answers(examples, features, logits, options);
    CHECK(found.predictions == run["predictions"]);
    CHECK(found.null_odds.size() == run["null_odds"].size());
    for (const auto& [id, value] : run["null_odds"].items()) {
      CHECK(found.null_odds.at(id).get<double>() == value.get<double>());
    }
    REQUIRE(found.texts.size() == examples.size());
    for (std::size_t i = 0; i < examples.size(); ++i) {
      CHECK(found.texts[i] == run["predictions"][examples[i].id].get<std::string>());
      const ordered_json& expected = run["nbest"][examples[i].id];
      const ordered_json& list = found.nbest.at(examples[i].id);
      CAPTURE(examples[i].id);
      REQUIRE(list.size() == expected.size());
      double sum = 0;
      for (std::size_t k = 0; k < list.size(); ++k) {
        CAPTURE(k);
        CHECK(list[k]["text"] == expected[k]["text"]);
        CHECK(list[k]["start_logit"].get<double>() == expected[k]["start_logit"].get<double>());
        CHECK(list[k]["end_logit"].get<double>() == expected[k]["end_logit"].get<double>());
        const double difference =
            list[k]["probability"].get<double>() - expected[k]["probability"].get<double>();
        CHECK_FALSE(!(std::abs(difference) <= 1e-6));
        std::string keys, expected_keys;
        for (const auto& item : list[k].items()) keys += item.key() + " ";
        for (const auto& item : expected[k].items()) expected_keys += item.key() + " ";
        CHECK(keys == expected_keys);
        sum += list[k]["probability"].get<double>();
        ++entries;
        invented += list[k]["text"] == "empty" ? 1u : 0u;
      }
      CHECK(std::abs(sum - 1) < 1e-5);
      without += found.texts[i].empty() ? 1u : 0u;
    }
  }
  // the cases that matter are there
  CHECK(entries > 500);
  CHECK(invented > 3);
  CHECK(without > 3);
}

TEST_CASE("ties go to the lower position") {
  const std::vector<float> same(9, 1.0f);
  CHECK(answer_one(same, same, {}).texts[0] == "aa");
  CHECK(answer_one(same, same, {4, 30, false, 0}).texts[0] == "aa");
  // the three best starts are positions 0 to 2, none of them in the context
  CHECK(answer_one(same, same, {3, 30, false, 0}).texts[0] == "empty");
}

TEST_CASE("reversed and long spans are dropped") {
  std::vector<float> start(9, -9.0f), end(9, -9.0f);
  start[6] = 5;
  end[4] = 5;
  start[3] = 3;
  CHECK(answer_one(start, end, {}).texts[0] == "aa bb");
  CHECK(answer_one(start, end, {20, 2, false, 0}).texts[0] == "aa bb");
  end[7] = 6;
  CHECK(answer_one(start, end, {20, 2, false, 0}).texts[0] == "dd ee");
  CHECK(answer_one(start, end, {20, 1, false, 0}).texts[0] == "ee");  // 6 - 9; the others have 5 - 9
}

TEST_CASE("v2: the null answer and its threshold") {
  std::vector<float> start(9, 0.0f), end(9, 0.0f);
  start[4] = 2;
  end[5] = 2;
  start[0] = 2;
  end[0] = 3;
  answer_options options{20, 30, true, 0};
  const auto none = answer_one(start, end, options);
  CHECK(none.texts[0] == "");
  CHECK(none.predictions["a"] == "");
  CHECK(none.null_odds["a"].get<double>() == 1.0);
  options.null_score_diff_threshold = 1.0;  // must be exceeded
  CHECK(answer_one(start, end, options).texts[0] == "bb cc");
  options.null_score_diff_threshold = 0.99;
  CHECK(answer_one(start, end, options).texts[0] == "");
  options.version_2_with_negative = false;
  const auto v1 = answer_one(start, end, options);
  CHECK(v1.texts[0] == "bb cc");
  CHECK(v1.null_odds.empty());
  CHECK(v1.null_odds.is_object());
}

TEST_CASE("logits that are not numbers do no harm") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> start(9, nan), end(9, nan);
  CHECK_NOTHROW(answer_one(start, end, {}));
  CHECK_NOTHROW(answer_one(start, end, {20, 30, true, 0}));
  start[4] = 1;
  end[5] = 1;
  CHECK(answer_one(start, end, {}).texts[0] == "bb cc");
  start.assign(9, -infinity);
  end.assign(9, infinity);
  CHECK_NOTHROW(answer_one(start, end, {20, 30, true, 0}).nbest.dump());
}

TEST_CASE("no feature, equal ids, wrong sizes") {
  CHECK(find_answers(one_example, {}, {}, {}).texts[0] == "empty");
  CHECK(find_answers(one_example, {}, {}, {20, 30, true, 0}).texts[0] == "empty");
  const std::vector<example> twice = {one_example[0], one_example[0], {"b", "", "", "", {}, false}};
  const auto found = find_answers(twice, {}, {}, {});
  CHECK(found.predictions.dump() == R"({"a":"empty","b":"empty"})");
  CHECK(found.texts.size() == 3);
  const std::vector<float> shorter(8, 0.0f), right(9, 0.0f);
  CHECK_THROWS_AS(answer_one(shorter, shorter, {}), std::invalid_argument);
  CHECK_THROWS_AS(answer_one(right, shorter, {}), std::invalid_argument);
  CHECK_THROWS_WITH_AS(answer_one(right, right, {0, 30, false, 0}),
                       "--n_best_size: expected 1 or more, found 0", bert_qa::input_error);
  CHECK_THROWS_AS(answer_one(right, right, {20, 0, false, 0}), bert_qa::input_error);
}
