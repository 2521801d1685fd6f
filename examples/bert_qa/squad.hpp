#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bert_qa {

/// One answer as the data set gives it: `start` counts code points of the context.
struct answer {
  std::string text;
  std::int64_t start = 0;
};

/// One question about one context. No answers: the question has none (SQuAD v2.0), or is to be predicted.
struct example {
  std::string id, title, question, context;
  std::vector<answer> answers;
  bool is_impossible = false;
};

/// Reads a data set in either JSON layout:
/// - nested, SQuAD v1.1 and v2.0: data[] . paragraphs[] . {context, qas[] . {id, question, answers[] . {text,
///   answer_start}, is_impossible}}
/// - flat rows: data[] . {id, title, context, question, answers . {text[], answer_start[]}}
/// `name` is the file in error messages. Missing answers are an error only if answers_required (training).
/// Throws input_error for anything else, with the JSON path, what was expected and what was found.
std::vector<example> parse_squad(std::string_view bytes, const std::string& name,
                                 bool answers_required = false);

}  // namespace bert_qa
