#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "squad.hpp"

namespace bert_qa {

/// Lower case, without ASCII punctuation, without the words a, an, the, single spaces: what the SQuAD scripts
/// compare. Lower case is Python's str.lower.
std::string normalize_answer(std::string_view text);

/// 1 if equal after normalisation, else 0.
double exact_match(std::string_view prediction, std::string_view truth);
/// Harmonic mean of precision and recall over normalised words. Where one side has no word: 0, in v1.1 even
/// if both have none; in v2.0 1 if both have none.
double f1_score(std::string_view prediction, std::string_view truth, bool version_2);

/// Per cent. The official v1.1 script's figures: the best over the answers, mean over the examples.
struct squad_scores {
  double exact_match = 0, f1 = 0;
};

/// Throws input_error, which names the file `source`, unless every example has an answer to be scored by.
void require_answers(std::span<const example> examples, const std::string& source);

/// predictions: a text per example. Throws input_error if an example has no answer, or there is no example.
squad_scores score_squad(std::span<const example> examples, std::span<const std::string> predictions);

/// Per cent. The official v2.0 script's figures; a part without examples (total 0) is left out of the JSON.
struct squad_v2_scores {
  struct part {
    double exact = 0, f1 = 0;
    std::int64_t total = 0;
  };
  part all, has_answer, no_answer;
  double best_exact = 0, best_f1 = 0;  ///< as run_qa reports them: with the no-answer probability 0 for all
};

squad_v2_scores score_squad_v2(std::span<const example> examples, std::span<const std::string> predictions);

/// The keys of Transformers' metrics, without the prefix eval_: exact_match, f1.
nlohmann::ordered_json to_json(const squad_scores& scores);
/// exact, f1, total, HasAns_exact …, NoAns_exact …, best_exact, best_exact_thresh, best_f1, best_f1_thresh.
nlohmann::ordered_json to_json(const squad_v2_scores& scores);

}  // namespace bert_qa
