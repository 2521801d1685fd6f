// The metric against tests/data/metric.json: the SQuAD scripts' figures, written again with Python's own
// string functions and regular expressions in tests/fixtures/make_squad_fixture.py; and cases by hand.
#include "metric.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "input_error.hpp"
#include "text_fixture.hpp"

using bert_qa::example;

namespace {

std::vector<example> with_truths(const nlohmann::json& fixture, std::vector<std::string>& predictions,
                                 bool v2) {
  std::vector<example> out;
  for (std::size_t i = 0; i < fixture["examples"].size(); ++i) {
    const auto& e = fixture["examples"][i];
    predictions.push_back(e["prediction"].get<std::string>());
    example& added = out.emplace_back();
    added.id = std::to_string(i);
    if (v2 && !fixture["v2_answerable"][i].get<bool>()) continue;
    for (const auto& truth : e["truths"]) added.answers.push_back({truth.get<std::string>(), 0});
  }
  return out;
}

bool near(double a, double b) { return std::abs(a - b) <= 1e-9; }

}  // namespace

TEST_CASE("single pairs equal the reference's") {
  const nlohmann::json fixture = test_json("metric.json");
  std::size_t equal = 0, between = 0;
  for (const auto& pair : fixture["pairs"]) {
    const auto prediction = pair[0].get<std::string>(), truth = pair[1].get<std::string>();
    CAPTURE(prediction);
    CAPTURE(truth);
    CHECK(bert_qa::normalize_answer(prediction) == pair[2].get<std::string>());
    CHECK(bert_qa::exact_match(prediction, truth) == pair[3].get<double>());
    CHECK(near(bert_qa::f1_score(prediction, truth, false), pair[4].get<double>()));
    CHECK(near(bert_qa::f1_score(prediction, truth, true), pair[5].get<double>()));
    equal += pair[3].get<double>() == 1.0 ? 1u : 0u;
    between += pair[4].get<double>() > 0 && pair[4].get<double>() < 1 ? 1u : 0u;
  }
  CHECK(equal > 50);
  CHECK(between > 30);
}

TEST_CASE("whole sets equal the reference's") {
  const nlohmann::json fixture = test_json("metric.json");
  std::vector<std::string> predictions;
  const std::vector<example> answerable = with_truths(fixture, predictions, false);
  const auto v1 = to_json(score_squad(answerable, predictions));
  REQUIRE(v1.size() == 2);
  for (const auto& [key, value] : fixture["v1"].items())
    CHECK(near(v1.at(key).get<double>(), value.get<double>()));
  predictions.clear();
  const std::vector<example> mixed = with_truths(fixture, predictions, true);
  const auto v2 = to_json(score_squad_v2(mixed, predictions));
  REQUIRE(v2.size() == fixture["v2"].size());
  for (const auto& [key, value] : fixture["v2"].items()) {
    CAPTURE(key);
    CHECK(near(v2.at(key).get<double>(), value.get<double>()));
  }
  CHECK(v1.dump().starts_with("{\"exact_match\":"));
  CHECK(v2.dump().starts_with("{\"exact\":"));
}

TEST_CASE("by hand") {
  CHECK(bert_qa::normalize_answer("The  quick, (brown) Fox's a\tden.") == "quick brown foxs den");
  CHECK(bert_qa::normalize_answer("theory of an antheap") == "theory of antheap");
  CHECK(bert_qa::normalize_answer("") == "");
  CHECK(bert_qa::normalize_answer("\xff the \xff") == "\xEF\xBF\xBD \xEF\xBF\xBD");
  CHECK(bert_qa::exact_match("The Saint Bernadette!", "saint bernadette") == 1);
  // two words of three, two of two: 2 * (2/3) * 1 / (5/3)
  CHECK(near(bert_qa::f1_score("old red house", "the red house", false), 0.8));
  // a word counts as often as both have it
  CHECK(near(bert_qa::f1_score("x x x", "x x", false), 2 * (2.0 / 3) / (5.0 / 3)));
  CHECK(bert_qa::f1_score("the", "a", false) == 0);
  CHECK(bert_qa::f1_score("the", "a", true) == 1);
  CHECK(bert_qa::f1_score("x", "", true) == 0);
}

TEST_CASE("v2: a part without examples is left out") {
  const std::vector<example> one = {{"a", "", "", "", {}, true}};
  const std::vector<std::string> none = {""}, some = {"x"};
  const auto right = to_json(score_squad_v2(one, none));
  CHECK(right.at("exact").get<double>() == 100);
  CHECK(right.at("NoAns_total").get<int>() == 1);
  CHECK_FALSE(right.contains("HasAns_exact"));
  const auto wrong = to_json(score_squad_v2(one, some));
  CHECK(wrong.at("f1").get<double>() == 0);
  CHECK(wrong.at("best_f1").get<double>() == 100);
}

TEST_CASE("v1 needs answers and examples") {
  const std::vector<example> one = {{"a", "", "", "", {}, true}};
  const std::vector<std::string> text = {"x"};
  CHECK_THROWS_WITH_AS(
      score_squad(one, text),
      "evaluation: question \"a\": expected an answer (data with unanswerable questions needs "
      "--version_2_with_negative), found none",
      bert_qa::input_error);
  CHECK_THROWS_WITH_AS(bert_qa::require_answers(one, "dev.json"),
                       "dev.json: question \"a\": expected an answer (data with unanswerable questions needs "
                       "--version_2_with_negative), found none",
                       bert_qa::input_error);
  const std::vector<example> answered = {{"a", "", "", "", {{"x", 0}}, false}};
  CHECK_NOTHROW(bert_qa::require_answers(answered, "dev.json"));
  CHECK_THROWS_AS(bert_qa::score_squad({}, {}), bert_qa::input_error);
  CHECK_THROWS_AS(score_squad(one, {}), std::invalid_argument);
}

TEST_CASE("a sigma at the end of a word, as str.lower of Python has it") {
  // Cased without being letters; before a sigma they make it a final one, behind it they do not let it be
  // one.
  for (const char* cased : {"ª", "º", "Ⅰ", "ⅿ", "Ⓐ", "ⓩ", "🄰", "🅩", "🆉"}) {
    CAPTURE(cased);
    const std::string text = cased;
    CHECK(bert_qa::normalize_answer(text + "Σ").ends_with("ς"));
    CHECK(bert_qa::normalize_answer("αΣ" + text).starts_with("ασ"));
  }
  // Looked through on both sides; what is next to them is not.
  for (const char* ignorable :
       {"'", ".", ":", "·", "\xCE\x87", "՟", "״", "‘", "’", "․", "‧", "︓", "﹒", "﹕", "＇", "．", "："}) {
    CAPTURE(ignorable);
    const std::string text = ignorable;
    CHECK(bert_qa::normalize_answer("αΣ" + text + "α").starts_with("ασ"));
    CHECK(bert_qa::normalize_answer("α" + text + "Σ").ends_with("ς"));
    CHECK(bert_qa::normalize_answer(text + "Σ").ends_with("σ"));
  }
  for (const char* neither : {"1", "中", "〇", "-"}) {
    CAPTURE(neither);
    CHECK(bert_qa::normalize_answer("αΣ" + std::string(neither) + "α").starts_with("ας"));
  }
}
