#include "squad.hpp"

#include <doctest/doctest.h>

#include <string>

#include "input_error.hpp"
#include "json_input.hpp"
#include "unicode.hpp"

using bert_qa::input_error;
using bert_qa::parse_squad;

namespace {

std::string message(const std::string& bytes, bool answers_required = false) {
  try {
    parse_squad(bytes, "dev.json", answers_required);
  } catch (const input_error& error) {
    const std::string text = error.what();
    CHECK(text.find('\n') == std::string::npos);
    return text;
  }
  return "";
}

std::string nested(const std::string& question) {
  return R"({"version":"1.1","data":[{"title":"T","paragraphs":[{"context":"Die Straße führt hinauf.","qas":[)" +
         question + "]}]}]}";
}

std::string flat(const std::string& row) { return R"({"data":[)" + row + "]}"; }

const std::string good_nested =
    R"({"id":"a","question":"Was?","answers":[{"text":"Straße","answer_start":4},)"
    R"({"text":"Die Straße","answer_start":0}]})";
const std::string good_flat =
    R"({"id":"a","title":"T","context":"Die Straße führt hinauf.","question":"Was?",)"
    R"("answers":{"text":["Straße","Die Straße"],"answer_start":[4,0]}})";

}  // namespace

TEST_CASE("both layouts give the same examples") {
  for (const std::string& bytes : {nested(good_nested), flat(good_flat)}) {
    const auto examples = parse_squad(bytes, "dev.json", true);
    REQUIRE(examples.size() == 1);
    const bert_qa::example& e = examples[0];
    CHECK(e.id == "a");
    CHECK(e.title == "T");
    CHECK(e.question == "Was?");
    CHECK(e.context == "Die Straße führt hinauf.");
    CHECK_FALSE(e.is_impossible);
    REQUIRE(e.answers.size() == 2);
    CHECK(e.answers[0].start == 4);
    CHECK(e.answers[1].text == "Die Straße");
    // positions are code points: the same bytes come out
    CHECK(bert_qa::unicode::slice(e.context, 4, 4 + bert_qa::unicode::length(e.answers[0].text)) == "Straße");
  }
}

TEST_CASE("v2.0: questions without an answer") {
  const auto examples = parse_squad(
      nested(
          R"({"id":"a","question":"Q","answers":[],"is_impossible":true,"plausible_answers":[{"text":"x"}]},)" +
          good_nested),
      "dev.json", true);
  REQUIRE(examples.size() == 2);
  CHECK(examples[0].is_impossible);
  CHECK(examples[0].answers.empty());
  CHECK_FALSE(examples[1].is_impossible);
}

TEST_CASE("many articles and paragraphs keep their order") {
  const std::string q = R"("qas":[{"id":"1","question":"Q"},{"id":"2","question":"R"}])";
  const auto examples = parse_squad(
      R"({"data":[{"title":"A","paragraphs":[{"context":"c0",)" + q + R"(},{"context":"c1",)" + q +
          R"(}]},{"paragraphs":[]},{"title":"B","paragraphs":[{"context":"c2",)" + q + "}]}]}",
      "dev.json");
  REQUIRE(examples.size() == 6);
  CHECK(examples[3].context == "c1");
  CHECK(examples[3].id == "2");
  CHECK(examples[5].title == "B");
}

TEST_CASE("wrong shapes name the file, the place, what was expected and what was found") {
  CHECK(message("") == "dev.json: expected JSON, found an empty file");
  CHECK(message("[]") == "dev.json: expected an object, found an array");
  CHECK(message("{}") == "dev.json: expected the key \"data\", found none");
  CHECK(message(R"({"data":{}})") == "dev.json: data: expected an array, found an object");
  CHECK(message(R"({"data":[]})") == "dev.json: data: expected at least one question, found none");
  CHECK(message(R"({"data":[7]})") == "dev.json: data[0]: expected an object, found 7");
  CHECK(message(R"({"data":[{"title":3,"paragraphs":[]}]})") ==
        "dev.json: data[0].title: expected a string, found 3");
  CHECK(message(R"({"data":[{"rows":[]}]})") ==
        "dev.json: data[0]: expected the key \"paragraphs\" (an article) or \"context\" (a question), found "
        "neither");
  CHECK(message(R"({"data":[{"paragraphs":null}]})") ==
        "dev.json: data[0].paragraphs: expected an array, found null");
  CHECK(message(R"({"data":[{"paragraphs":[{"qas":[]}]}]})") ==
        "dev.json: data[0].paragraphs[0]: expected the key \"context\", found none");
  CHECK(message(R"({"data":[{"paragraphs":[{"context":"c"}]}]})") ==
        "dev.json: data[0].paragraphs[0]: expected the key \"qas\", found none");
  CHECK(message(nested("[]")) ==
        "dev.json: data[0].paragraphs[0].qas[0]: expected an object, found an array");
  CHECK(message(nested(R"({"id":5,"question":"Q"})")) ==
        "dev.json: data[0].paragraphs[0].qas[0].id: expected a string, found 5");
  CHECK(message(nested(R"({"id":"a"})")) ==
        "dev.json: data[0].paragraphs[0].qas[0]: expected the key \"question\", found none");
  CHECK(message(nested(R"({"id":"a","question":"Q","is_impossible":"no"})")) ==
        "dev.json: data[0].paragraphs[0].qas[0].is_impossible: expected true or false, found \"no\"");
  CHECK(message(nested(R"({"id":"a","question":"Q"})")) == "");
  CHECK(message(nested(R"({"id":"a","question":"Q","is_impossible":null})")) == "");
  CHECK(message(nested(R"({"id":"a","question":"Q"})"), true) ==
        "dev.json: data[0].paragraphs[0].qas[0]: expected the key \"answers\", found none");
  const auto with_answers = [](const char* answers) {
    return message(nested(std::string(R"({"id":"a","question":"Q","answers":)") + answers + "}"));
  };
  const std::string place = "dev.json: data[0].paragraphs[0].qas[0].answers";
  CHECK(with_answers("3") == place + ": expected an array, found 3");
  CHECK(with_answers("[3]") == place + "[0]: expected an object, found 3");
  CHECK(with_answers(R"([{"text":"x"}])") == place + "[0]: expected the key \"answer_start\", found none");
  CHECK(with_answers(R"([{"text":["x"],"answer_start":1}])") ==
        place + "[0].text: expected a string, found an array");
  CHECK(with_answers(R"([{"text":"x","answer_start":"1"}])") ==
        place + "[0].answer_start: expected an integer, found \"1\"");
  CHECK(with_answers(R"([{"text":"x","answer_start":1.5}])") ==
        place + "[0].answer_start: expected an integer, found 1.5");
  const std::string range = ": expected a position in the context, 0 to 24, found ";
  CHECK(with_answers(R"([{"text":"x","answer_start":24}])") == "");
  CHECK(with_answers(R"([{"text":"x","answer_start":25}])") == place + "[0].answer_start" + range + "25");
  CHECK(with_answers(R"([{"text":"x","answer_start":-1}])") == place + "[0].answer_start" + range + "-1");
  CHECK(with_answers(R"([{"text":"x","answer_start":18446744073709551615}])") ==
        place + "[0].answer_start" + range + "18446744073709551615");
  CHECK(with_answers(R"({"text":["x","y"],"answer_start":[1]})") ==
        place + ": expected as many answer_start as text, 2, found 1");
  CHECK(with_answers(R"({"text":["x"],"answer_start":[null]})") ==
        place + ".answer_start[0]: expected an integer, found null");
}

TEST_CASE("hostile JSON") {
  const std::string good = nested(good_nested);
  for (std::size_t size = 0; size < good.size(); ++size) CHECK(message(good.substr(0, size)) != "");
  CHECK(message(good.substr(0, 30)) == "dev.json: expected JSON, found its end after 30 bytes");
  CHECK(message("{\n\"data\": nul}")
            .starts_with("dev.json: expected JSON in UTF-8, found a syntax error in line 2"));
  CHECK(message(good + "x") != "");
  CHECK(message(std::string(1000000, '[')) ==
        "dev.json: expected JSON nested at most 64 levels deep, found more at byte 64");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"data\":";
  CHECK(message(objects).find("nested at most 64") != std::string::npos);
  CHECK(message(nested(R"({"id":"[[[[\"[[","question":"{{\\"})")) == "");  // brackets in strings are none
  for (const char* bad : {"\xff", "\xC3", "\xED\xA0\x80", "\xC0\xAF", "\xF5\x80\x80\x80"}) {
    CHECK(message(nested(std::string(R"({"id":"a","question":")") + bad + R"("})"))
              .starts_with("dev.json: expected JSON in UTF-8"));
  }
  CHECK(message(nested(R"({"id":"a","question":"\ud800"})")) != "");  // half a surrogate pair
  CHECK(message(R"({"data":1e999})") != "");
  CHECK(message(std::string("\0\0\0\0", 4)) != "");
  CHECK(message("\xEF\xBB\xBF" + good) == "");  // a byte order mark is allowed
  // control characters and long text in what was found stay on one short line
  const std::string noisy = message(R"({"data":")" + std::string(500, 'x') + R"(\n\u0007"})");
  CHECK(noisy.size() < 200);
  CHECK(bert_qa::quote("a\nb\x7f") == "\"a\\x0ab\\x7f\"");
}

TEST_CASE("every single wrong byte is an error or parses, and never anything else") {
  const std::string good = nested(good_nested);
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const char c : {'\0', '"', '{', ']', ',', '\\', '9', '\xff'}) {
      std::string bytes = good;
      bytes[i] = c;
      try {
        parse_squad(bytes, "dev.json", true);
      } catch (const input_error&) {
      }
    }
  }
  CHECK(parse_squad(good, "dev.json").size() == 1);
}
