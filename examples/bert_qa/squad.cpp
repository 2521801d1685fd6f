#include "squad.hpp"

#include <nlohmann/json.hpp>

#include "input_error.hpp"
#include "json_input.hpp"
#include "unicode.hpp"

namespace bert_qa {
namespace {

using nlohmann::json;

std::string optional_string(const json& object, const char* name, const json_place& place) {
  const auto at = object.find(name);
  if (at == object.end() || at->is_null()) return {};
  require_kind(*at, json_kind::string, place.key(name));
  return at->get<std::string>();
}

answer read_answer(const json& text, const json& start, std::int64_t context_length,
                   const json_place& text_place, const json_place& start_place) {
  require_kind(text, json_kind::string, text_place);
  require_kind(start, json_kind::integer, start_place);
  const std::string range = "a position in the context, 0 to " + std::to_string(context_length);
  if (start.is_number_unsigned() && start.get<std::uint64_t>() > static_cast<std::uint64_t>(context_length)) {
    throw input_error(start_place.text(), range, start.dump());
  }
  const auto value = start.get<std::int64_t>();
  if (value < 0 || value > context_length) throw input_error(start_place.text(), range, start.dump());
  return {text.get<std::string>(), value};
}

struct reader {
  bool answers_required;
  std::vector<example> out;

  // question and answers of one entry; its context is known
  void read_question(const json& entry, const json_place& place, std::string title,
                     const std::string& context, std::int64_t context_length) {
    example e;
    e.id = require_member(entry, "id", json_kind::string, place).get<std::string>();
    e.question = require_member(entry, "question", json_kind::string, place).get<std::string>();
    e.title = std::move(title);
    e.context = context;
    if (const auto at = entry.find("is_impossible"); at != entry.end() && !at->is_null()) {
      require_kind(*at, json_kind::boolean, place.key("is_impossible"));
      e.is_impossible = at->get<bool>();
    }
    const auto answers = entry.find("answers");
    if (answers == entry.end() || answers->is_null()) {
      if (answers_required) {
        throw input_error(place.text(), "the key \"answers\"", answers == entry.end() ? "none" : "null");
      }
    } else {
      read_answers(*answers, place.key("answers"), context_length, e.answers);
    }
    out.push_back(std::move(e));
  }

  // both forms: a list of {text, answer_start}, or {text: list, answer_start: list}
  static void read_answers(const json& answers, const json_place& place, std::int64_t context_length,
                           std::vector<answer>& into) {
    if (answers.is_object()) {
      const json& texts = require_member(answers, "text", json_kind::array, place);
      const json& starts = require_member(answers, "answer_start", json_kind::array, place);
      if (texts.size() != starts.size()) {
        throw input_error(place.text(), "as many answer_start as text, " + std::to_string(texts.size()),
                          std::to_string(starts.size()));
      }
      for (std::size_t i = 0; i < texts.size(); ++i) {
        into.push_back(read_answer(texts[i], starts[i], context_length, place.key("text").element(i),
                                   place.key("answer_start").element(i)));
      }
      return;
    }
    require_kind(answers, json_kind::array, place);
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const json_place at = place.element(i);
      const json& text = require_member(answers[i], "text", json_kind::string, at);
      const json& start = require_member(answers[i], "answer_start", json_kind::integer, at);
      into.push_back(read_answer(text, start, context_length, at.key("text"), at.key("answer_start")));
    }
  }

  void read_paragraph(const json& paragraph, const json_place& place, const std::string& title) {
    const std::string context =
        require_member(paragraph, "context", json_kind::string, place).get<std::string>();
    const std::int64_t length = unicode::length(context);
    const json& questions = require_member(paragraph, "qas", json_kind::array, place);
    for (std::size_t i = 0; i < questions.size(); ++i) {
      const json_place at = place.key("qas").element(i);
      require_kind(questions[i], json_kind::object, at);
      read_question(questions[i], at, title, context, length);
    }
  }
};

}  // namespace

std::vector<example> parse_squad(std::string_view bytes, const std::string& name, bool answers_required) {
  const json file = parse_json(bytes, name);
  const json_place root{name, ""};
  const json& data = require_member(file, "data", json_kind::array, root);
  reader r{answers_required, {}};
  for (std::size_t i = 0; i < data.size(); ++i) {
    const json_place place = root.key("data").element(i);
    require_kind(data[i], json_kind::object, place);
    std::string title = optional_string(data[i], "title", place);
    if (data[i].contains("paragraphs")) {
      const json& paragraphs = require_member(data[i], "paragraphs", json_kind::array, place);
      for (std::size_t k = 0; k < paragraphs.size(); ++k) {
        r.read_paragraph(paragraphs[k], place.key("paragraphs").element(k), title);
      }
    } else if (data[i].contains("context") || data[i].contains("question")) {
      const std::string context =
          require_member(data[i], "context", json_kind::string, place).get<std::string>();
      r.read_question(data[i], place, std::move(title), context, unicode::length(context));
    } else {
      throw input_error(place.text(), "the key \"paragraphs\" (an article) or \"context\" (a question)",
                        "neither");
    }
  }
  if (r.out.empty()) throw input_error(root.key("data").text(), "at least one question", "none");
  return std::move(r.out);
}

}  // namespace bert_qa
