#include "answers.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "input_error.hpp"
#include "unicode.hpp"

namespace bert_qa {
namespace {

using nlohmann::ordered_json;

struct candidate {
  offset where;
  float score = 0, start_logit = 0, end_logit = 0;
};

// NaN below every number, so that the order is total and the sort defined.
float rank_of(float value) { return std::isnan(value) ? -std::numeric_limits<float>::infinity() : value; }

void best_positions(std::span<const float> logits, std::size_t count, std::vector<std::int32_t>& out) {
  out.resize(logits.size());
  std::iota(out.begin(), out.end(), 0);
  count = std::min(count, out.size());
  std::partial_sort(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(count), out.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const float va = rank_of(logits[static_cast<std::size_t>(a)]);
                      const float vb = rank_of(logits[static_cast<std::size_t>(b)]);
                      return va != vb ? va > vb : a < b;
                    });
  out.resize(count);
}

// A JSON object whose members are appended without the linear search of ordered_json::operator[]; a key that
// was there is overwritten where it stands, as a Python dictionary does.
class object_writer {
 public:
  void set(const std::string& key, ordered_json value) {
    const auto [at, added] = index_.try_emplace(key, members_.size());
    if (added) {
      members_.emplace_back(key, std::move(value));
    } else {
      members_[at->second].second = std::move(value);
    }
  }
  ordered_json take() {
    ordered_json out = ordered_json::object();
    auto& object = out.get_ref<ordered_json::object_t&>();
    object.reserve(members_.size());
    for (auto& [key, value] : members_) object.emplace_back(key, std::move(value));
    return out;
  }

 private:
  std::unordered_map<std::string, std::size_t> index_;
  std::vector<std::pair<std::string, ordered_json>> members_;
};

struct search {
  const answer_options& options;
  std::vector<std::int32_t> starts, ends;
  std::vector<candidate> found;
  std::optional<candidate> null;

  void add_feature(const feature& f, const feature_logits& logits) {
    if (!logits.start.empty()) {
      const candidate score{{0, 0}, logits.start[0] + logits.end[0], logits.start[0], logits.end[0]};
      if (!null || null->score > score.score) null = score;
    }
    const auto n = static_cast<std::size_t>(options.n_best_size);
    best_positions(logits.start, n, starts);
    best_positions(logits.end, n, ends);
    for (const std::int32_t s : starts) {
      if (!f.is_context(s)) continue;
      for (const std::int32_t e : ends) {
        if (!f.is_context(e) || e < s || e - s + 1 > options.max_answer_length) continue;
        const auto si = static_cast<std::size_t>(s), ei = static_cast<std::size_t>(e);
        found.push_back({{f.offsets[si].begin, f.offsets[ei].end},
                         logits.start[si] + logits.end[ei],
                         logits.start[si],
                         logits.end[ei]});
      }
    }
  }

  void keep_best() {
    const auto better = [](const candidate& a, const candidate& b) {
      return rank_of(a.score) > rank_of(b.score);
    };
    if (options.version_2_with_negative && null) found.push_back(*null);
    std::stable_sort(found.begin(), found.end(), better);
    const auto n = static_cast<std::size_t>(options.n_best_size);
    if (found.size() > n) found.resize(n);
    if (options.version_2_with_negative && null &&
        std::none_of(found.begin(), found.end(), [](const candidate& c) {
          return c.where == offset{0, 0};
        })) {
      found.push_back(*null);
    }
  }
};

struct entry {
  std::string text;
  float score, start_logit, end_logit;
};

// In f32, except where Transformers mixes in the invented answer's score, a Python float, and gets f64.
std::vector<double> softmax(const std::vector<entry>& entries, bool in_double) {
  float highest = entries[0].score;
  for (const entry& c : entries) highest = std::max(highest, c.score);
  std::vector<double> out;
  double sum = 0;
  for (const entry& c : entries) {
    const double difference = static_cast<double>(c.score) - static_cast<double>(highest);
    out.push_back(in_double ? std::exp(difference)
                            : static_cast<double>(std::exp(static_cast<float>(difference))));
    sum += out.back();
  }
  for (double& p : out) p = in_double ? p / sum : static_cast<double>(static_cast<float>(p / sum));
  return out;
}

}  // namespace

answer_set find_answers(std::span<const example> examples, std::span<const feature> features,
                        std::span<const feature_logits> logits, const answer_options& options) {
  if (options.n_best_size < 1)
    throw input_error("--n_best_size", "1 or more", std::to_string(options.n_best_size));
  if (options.max_answer_length < 1) {
    throw input_error("--max_answer_length", "1 or more", std::to_string(options.max_answer_length));
  }
  if (logits.size() != features.size())
    throw std::invalid_argument("find_answers: logits and features differ in number");
  std::vector<std::vector<std::size_t>> features_of(examples.size());
  for (std::size_t i = 0; i < features.size(); ++i) {
    const auto size = static_cast<std::size_t>(features[i].size());
    if (logits[i].start.size() != logits[i].end.size() || logits[i].start.size() < size) {
      throw std::invalid_argument("find_answers: logits of feature " + std::to_string(i) + " are too short");
    }
    features_of.at(static_cast<std::size_t>(features[i].example)).push_back(i);
  }

  answer_set out;
  out.texts.reserve(examples.size());
  object_writer predictions, nbest, null_odds;
  for (std::size_t n = 0; n < examples.size(); ++n) {
    const example& e = examples[n];
    search s{options, {}, {}, {}, {}};
    for (const std::size_t i : features_of[n]) s.add_feature(features[i], logits[i]);
    s.keep_best();

    std::vector<entry> entries;
    for (const candidate& c : s.found) {
      entries.push_back({std::string(unicode::slice(e.context, c.where.begin, c.where.end)), c.score,
                         c.start_logit, c.end_logit});
    }
    const bool invented = entries.empty() || (entries.size() == 1 && entries[0].text.empty());
    if (invented) entries.insert(entries.begin(), {"empty", 0.0f, 0.0f, 0.0f});

    const std::vector<double> probability = softmax(entries, invented);
    ordered_json list = ordered_json::array();
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const entry& c = entries[i];
      ordered_json item = ordered_json::object();
      if (invented && i == 0) item["text"] = c.text;  // Transformers writes this one's keys in this order
      item["start_logit"] = c.start_logit;
      item["end_logit"] = c.end_logit;
      item["text"] = c.text;
      item["probability"] = probability[i];
      list.push_back(std::move(item));
    }
    nbest.set(e.id, std::move(list));

    std::string text = entries[0].text;
    if (options.version_2_with_negative) {
      const auto best =
          std::find_if(entries.begin(), entries.end(), [](const entry& c) { return !c.text.empty(); });
      if (best != entries.end()) {
        const float null_score = s.null ? s.null->score : 0.0f;
        const float difference = null_score - best->start_logit - best->end_logit;
        null_odds.set(e.id, difference);
        text =
            static_cast<double>(difference) > options.null_score_diff_threshold ? std::string() : best->text;
      }
    }
    predictions.set(e.id, text);
    out.texts.push_back(std::move(text));
  }
  out.predictions = predictions.take();
  out.nbest = nbest.take();
  out.null_odds = null_odds.take();
  return out;
}

}  // namespace bert_qa
