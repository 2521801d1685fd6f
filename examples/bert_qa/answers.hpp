#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "features.hpp"
#include "squad.hpp"

namespace bert_qa {

struct answer_options {
  std::int32_t n_best_size = 20;
  std::int32_t max_answer_length = 30;  ///< tokens
  bool version_2_with_negative = false;
  double null_score_diff_threshold = 0.0;
};

/// The two logits of each token of one feature. They may be longer than the feature (padding): positions
/// beyond it compete for the n best, and are then dropped, as in run_qa.
struct feature_logits {
  std::span<const float> start, end;
};

/// What Transformers writes into eval_predictions.json, eval_nbest_predictions.json and (v2)
/// eval_null_odds.json; to write them alike: `dump(4, ' ', true) + "\n"`.
struct answer_set {
  std::vector<std::string> texts;      ///< per example; empty: no answer (v2)
  nlohmann::ordered_json predictions;  ///< id -> text
  nlohmann::ordered_json nbest;        ///< id -> [{start_logit, end_logit, text, probability}], best first
  nlohmann::ordered_json null_odds;    ///< id -> null score less best score; an empty object unless v2
};

/// From logits to answers as run_qa's postprocess_qa_predictions: per feature the n best starts times the n
/// best ends, without those outside the context, reversed, or too long; scored by the sum of logits (f32)
/// over all features of the example; the n best kept, probabilities by softmax over them; "empty" when
/// nothing is left. v2: the smallest null score (the logits of [CLS]) over the features is one more
/// candidate, and wins if it exceeds the best other by more than the threshold.
///
/// Equal logits: the lower position wins; equal scores: the earlier feature, then the better start.
/// A NaN logit counts as lower than every number. An id that appears twice keeps the last answer.
/// logits are in the order of the features. Throws input_error for an n_best_size or max_answer_length below
/// 1, std::invalid_argument if the sizes of the spans do not fit.
answer_set find_answers(std::span<const example> examples, std::span<const feature> features,
                        std::span<const feature_logits> logits, const answer_options& options);

}  // namespace bert_qa
