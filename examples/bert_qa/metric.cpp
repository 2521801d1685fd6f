#include "metric.hpp"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#include "input_error.hpp"
#include "json_input.hpp"
#include "unicode.hpp"

namespace bert_qa {
namespace {

bool is_space(char32_t c) { return unicode::is_white_space(c) || (c >= 0x1c && c <= 0x1f); }

std::vector<std::u32string> normalized_words(std::string_view text) {
  std::u32string clean;
  for (const char32_t c : unicode::lower(unicode::decode(text))) {
    if (c >= 0x80 || !unicode::is_punctuation(c)) clean.push_back(c);
  }
  // An article is a whole run of word characters, which need not be a whole word: "the-" loses its hyphen
  // above, but a dash beyond ASCII still ends the run.
  std::u32string kept;
  for (std::size_t at = 0; at < clean.size();) {
    std::size_t end = at;
    while (end < clean.size() && unicode::is_word(clean[end])) ++end;
    const std::u32string_view run(clean.data() + at, end - at);
    if (run == U"a" || run == U"an" || run == U"the") {
      kept += U' ';
    } else {
      kept += run;
    }
    if (end < clean.size()) kept += clean[end++];
    at = end;
  }
  std::vector<std::u32string> words;
  for (std::size_t at = 0; at < kept.size();) {
    std::size_t end = at;
    while (end < kept.size() && !is_space(kept[end])) ++end;
    if (end > at) words.emplace_back(kept, at, end - at);
    at = end + 1;
  }
  return words;
}

using words = std::vector<std::u32string>;

double f1_of(const words& prediction, const words& truth, bool version_2) {
  if (version_2 && (prediction.empty() || truth.empty())) return prediction == truth ? 1.0 : 0.0;
  std::map<std::u32string_view, int> counts;
  for (const auto& word : truth) ++counts[word];
  int same = 0;
  for (const auto& word : prediction) {
    if (const auto at = counts.find(word); at != counts.end() && at->second > 0) {
      --at->second;
      ++same;
    }
  }
  if (same == 0) return 0;
  const double precision = 1.0 * same / static_cast<double>(prediction.size());
  const double recall = 1.0 * same / static_cast<double>(truth.size());
  return (2 * precision * recall) / (precision + recall);
}

void check_sizes(std::span<const example> examples, std::span<const std::string> predictions) {
  if (examples.size() != predictions.size()) {
    throw std::invalid_argument("score_squad: examples and predictions differ in number");
  }
  if (examples.empty()) throw input_error("evaluation", "at least one example", "none");
}

}  // namespace

std::string normalize_answer(std::string_view text) {
  std::string out;
  for (const std::u32string& word : normalized_words(text)) {
    if (!out.empty()) out += ' ';
    for (const char32_t c : word) unicode::append(out, c);
  }
  return out;
}

double exact_match(std::string_view prediction, std::string_view truth) {
  return normalized_words(prediction) == normalized_words(truth) ? 1 : 0;
}

double f1_score(std::string_view prediction, std::string_view truth, bool version_2) {
  return f1_of(normalized_words(prediction), normalized_words(truth), version_2);
}

void require_answers(std::span<const example> examples, const std::string& source) {
  for (const example& e : examples) {
    if (e.answers.empty()) {
      throw input_error(source + ": question " + quote(e.id),
                        "an answer (data with unanswerable questions needs --version_2_with_negative)",
                        "none");
    }
  }
}

squad_scores score_squad(std::span<const example> examples, std::span<const std::string> predictions) {
  check_sizes(examples, predictions);
  require_answers(examples, "evaluation");
  squad_scores sum;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const words prediction = normalized_words(predictions[i]);
    double exact = 0, f1 = 0;
    for (const answer& a : examples[i].answers) {
      const words truth = normalized_words(a.text);
      exact = std::max(exact, prediction == truth ? 1.0 : 0.0);
      f1 = std::max(f1, f1_of(prediction, truth, false));
    }
    sum.exact_match += exact;
    sum.f1 += f1;
  }
  const auto total = static_cast<double>(examples.size());
  return {100.0 * sum.exact_match / total, 100.0 * sum.f1 / total};
}

squad_v2_scores score_squad_v2(std::span<const example> examples, std::span<const std::string> predictions) {
  check_sizes(examples, predictions);
  squad_v2_scores out;
  std::int64_t unanswerable = 0;
  for (const example& e : examples) unanswerable += e.answers.empty() ? 1 : 0;
  // The best threshold's walk: all "no answer" at first, then the examples one by one in their order.
  double walk_exact = static_cast<double>(unanswerable), walk_f1 = walk_exact;
  out.best_exact = walk_exact;
  out.best_f1 = walk_f1;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const bool has_answer = !examples[i].answers.empty();
    const words prediction = normalized_words(predictions[i]);
    double exact = 0, f1 = 0;
    bool any_truth = false;
    for (const answer& a : examples[i].answers) {
      const words truth = normalized_words(a.text);
      if (truth.empty()) continue;
      any_truth = true;
      exact = std::max(exact, prediction == truth ? 1.0 : 0.0);
      f1 = std::max(f1, f1_of(prediction, truth, true));
    }
    if (!any_truth) exact = f1 = prediction.empty() ? 1.0 : 0.0;
    for (squad_v2_scores::part* part : {&out.all, has_answer ? &out.has_answer : &out.no_answer}) {
      part->exact += exact;
      part->f1 += f1;
      ++part->total;
    }
    const double wrong = predictions[i].empty() ? 0.0 : -1.0;
    walk_exact += has_answer ? exact : wrong;
    walk_f1 += has_answer ? f1 : wrong;
    out.best_exact = std::max(out.best_exact, walk_exact);
    out.best_f1 = std::max(out.best_f1, walk_f1);
  }
  for (squad_v2_scores::part* part : {&out.all, &out.has_answer, &out.no_answer}) {
    if (part->total == 0) continue;
    part->exact = 100.0 * part->exact / static_cast<double>(part->total);
    part->f1 = 100.0 * part->f1 / static_cast<double>(part->total);
  }
  out.best_exact = 100.0 * out.best_exact / static_cast<double>(examples.size());
  out.best_f1 = 100.0 * out.best_f1 / static_cast<double>(examples.size());
  return out;
}

nlohmann::ordered_json to_json(const squad_scores& scores) {
  return {{"exact_match", scores.exact_match}, {"f1", scores.f1}};
}

nlohmann::ordered_json to_json(const squad_v2_scores& scores) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  const auto add = [&out](const std::string& prefix, const squad_v2_scores::part& part) {
    if (part.total == 0) return;
    out[prefix + "exact"] = part.exact;
    out[prefix + "f1"] = part.f1;
    out[prefix + "total"] = part.total;
  };
  add("", scores.all);
  add("HasAns_", scores.has_answer);
  add("NoAns_", scores.no_answer);
  out["best_exact"] = scores.best_exact;
  out["best_exact_thresh"] = 0.0;
  out["best_f1"] = scores.best_f1;
  out["best_f1_thresh"] = 0.0;
  return out;
}

}  // namespace bert_qa
