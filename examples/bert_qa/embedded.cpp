#include "embedded.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "embedded_tables.hpp"

namespace bert_qa {
namespace detail {
namespace {

using json = nlohmann::ordered_json;

/// splitmix64 (Steele, Lea and Flood, 2014). The distributions of <random> differ between standard libraries.
class generator {
 public:
  explicit generator(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// 0 .. count - 1; the bias of the remainder is below count / 2^64
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(next() % count); }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[below(from.size())];
  }

 private:
  std::uint64_t state_;
};

enum class part { train, heldout };

/// Names made of two words are split by their pair, so that both parts know the words and neither the other's
/// names.
bool belongs(part which, std::size_t first, std::size_t second) {
  return ((2 * first + 3 * second) % 7 == 0) == (which == part::heldout);
}

std::size_t code_points(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) != 0x80u; }));
}

std::string number_in_words(int number) {
  static constexpr std::array<const char*, 13> spelled = {"zero", "one",    "two",   "three", "four",
                                                          "five", "six",    "seven", "eight", "nine",
                                                          "ten",  "eleven", "twelve"};
  const auto i = static_cast<std::size_t>(number);
  return i < spelled.size() ? spelled[i] : std::to_string(number);
}

/// The values of the slots of one subject; `taken` is shared by the subjects of a paragraph.
class subject {
 public:
  subject(generator& random, part which, std::set<std::string>& taken)
      : random_(random), which_(which), taken_(taken) {}

  const std::string& value(std::string_view slot) {
    const auto found = values_.find(slot);
    if (found != values_.end()) return found->second;
    std::string_view base = slot;
    while (base.back() >= '0' && base.back() <= '9') base.remove_suffix(1);
    if (base == "name" || base == "first") {
      make_person(slot.substr(base.size()));
    } else if (slot == "year2") {
      const int year = std::stoi(value("year"));
      keep(slot, [&] { return std::to_string(year + 8 + static_cast<int>(random_.below(50))); });
    } else {
      keep(slot, [&] { return draw(base); });
    }
    return values_.find(slot)->second;
  }

 private:
  template <class Draw>
  void keep(std::string_view slot, Draw draw_one) {
    std::string text = draw_one();
    while (!taken_.insert(text).second) text = draw_one();
    values_.emplace(slot, std::move(text));
  }

  void make_person(std::string_view digit) {
    const words& firsts = first_names();
    const words& lasts = surnames();
    for (;;) {
      const std::size_t first = random_.below(firsts.size()), last = random_.below(lasts.size());
      const std::string first_name(firsts[first]), last_name(lasts[last]);
      if (!belongs(which_, first, last) || taken_.count(first_name) || taken_.count(last_name)) continue;
      taken_.insert({first_name, last_name});
      values_.emplace("first" + std::string(digit), first_name);
      values_.emplace("name" + std::string(digit), first_name + " " + last_name);
      return;
    }
  }

  std::string draw(std::string_view base) {
    if (base == "town") {
      const words& beginnings = town_beginnings();
      const words& endings = town_endings();
      for (;;) {
        const std::size_t b = random_.below(beginnings.size()), e = random_.below(endings.size());
        if (belongs(which_, b, e)) return std::string(beginnings[b]) + std::string(endings[e]);
      }
    }
    if (base == "year") return std::to_string(1800 + random_.below(120));
    for (const number_pool& range : numbers()) {
      if (range.name != base) continue;
      const auto choices = static_cast<std::size_t>((range.highest - range.lowest) / range.step + 1);
      return number_in_words(range.lowest + range.step * static_cast<int>(random_.below(choices))) +
             std::string(range.unit);
    }
    for (const pool& words_of : pools()) {
      if (words_of.name == base) return std::string(random_.pick(words_of.values));
    }
    throw std::logic_error("embedded set: no pool for slot " + std::string(base));
  }

  generator& random_;
  part which_;
  std::set<std::string>& taken_;
  std::map<std::string, std::string, std::less<>> values_;
};

struct placed {
  std::string text;
  std::map<std::string, std::size_t, std::less<>> starts;  ///< slot -> byte where its value begins
};

placed fill(std::string_view form, subject& who) {
  placed out;
  for (std::size_t i = 0; i < form.size();) {
    if (form[i] != '{') {
      out.text += form[i++];
      continue;
    }
    const std::size_t close = form.find('}', i);
    const std::string_view slot = form.substr(i + 1, close - i - 1);
    out.starts.emplace(slot, out.text.size());
    out.text += who.value(slot);
    i = close + 1;
  }
  return out;
}

struct asked {
  std::string question, answer;
  std::size_t start;  ///< byte in the paragraph
};

/// The first fact and `shown` - 1 of the others, in the order of the table.
std::vector<const fact*> choose_facts(generator& random, const theme& about) {
  std::vector<const fact*> others;
  for (std::size_t i = 1; i < about.facts.size(); ++i) others.push_back(&about.facts[i]);
  while (others.size() + 1 > static_cast<std::size_t>(about.facts_shown)) {
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(random.below(others.size())));
  }
  others.insert(others.begin(), &about.facts[0]);
  return others;
}

json make_paragraph(generator& random, part which, const theme& about, const std::string& id) {
  std::set<std::string> taken;
  std::string context;
  std::vector<asked> questions;
  const std::vector<const fact*> shared_facts = choose_facts(random, about);
  for (int s = 0; s < about.subjects; ++s) {
    subject who(random, which, taken);
    for (const fact* told : shared_facts) {
      const placed sentence = fill(random.pick(told->sentences), who);
      if (!context.empty()) context += ' ';
      const question& form = random.pick(told->questions);
      const std::string& answer = who.value(form.answer);
      questions.push_back(
          {fill(form.text, who).text, answer, context.size() + sentence.starts.find(form.answer)->second});
      context += sentence.text;
    }
  }
  json qas = json::array();
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const asked& one = questions[i];
    const std::size_t start = code_points(std::string_view(context).substr(0, one.start));
    qas.push_back({{"id", id + "-" + std::to_string(i + 1)},
                   {"question", one.question},
                   {"answers", json::array({{{"text", one.answer}, {"answer_start", start}}})}});
  }
  return {{"context", context}, {"qas", qas}};
}

std::pair<std::string, std::int64_t> make_part(part which, std::uint64_t seed, int paragraphs_a_theme) {
  generator random(seed);
  std::set<std::string> contexts;
  std::int64_t questions = 0;
  json articles = json::array();
  for (std::size_t t = 0; t < themes().size(); ++t) {
    const theme& about = themes()[t];
    json paragraphs = json::array();
    for (int p = 0; p < paragraphs_a_theme; ++p) {
      const std::string id = (which == part::train ? "train-" : "heldout-") + std::to_string(t + 1) + "-" +
                             std::to_string(p + 1);
      json paragraph = make_paragraph(random, which, about, id);
      while (!contexts.insert(paragraph["context"]).second)
        paragraph = make_paragraph(random, which, about, id);
      questions += static_cast<std::int64_t>(paragraph["qas"].size());
      paragraphs.push_back(std::move(paragraph));
    }
    articles.push_back({{"title", about.title}, {"paragraphs", std::move(paragraphs)}});
  }
  return {json{{"version", "1.1"}, {"data", std::move(articles)}}.dump() + "\n", questions};
}

/// Words as BERT's basic tokenizer sees them: lower case, without the accents of our tables, split on
/// punctuation.
void add_words(std::string_view text, std::set<std::string>& out) {
  std::string word;
  const auto flush = [&] {
    if (word.size() > 1) out.insert(word);
    word.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '{') {
      i = text.find('}', i);
      flush();
    } else if (c >= 'A' && c <= 'Z') {
      word += static_cast<char>(c - 'A' + 'a');
    } else if (c >= 'a' && c <= 'z') {
      word += c;
    } else if (text.substr(i, 2) == "\u00e9" || text.substr(i, 2) == "\u00eb") {
      word += 'e';
      ++i;
    } else {
      flush();
    }
  }
  flush();
}

std::string make_vocabulary() {
  std::set<std::string> whole;
  for (const words* list : {&first_names(), &surnames(), &town_beginnings()}) {
    for (const std::string_view word : *list) add_words(word, whole);
  }
  for (const pool& p : pools()) {
    for (const std::string_view value : p.values) add_words(value, whole);
  }
  for (const number_pool& p : numbers()) add_words(p.unit, whole);
  for (int i = 2; i <= 12; ++i) add_words(number_in_words(i), whole);
  for (const theme& t : themes()) {
    for (const fact& f : t.facts) {
      for (const std::string_view sentence : f.sentences) add_words(sentence, whole);
      for (const question& q : f.questions) add_words(q.text, whole);
    }
  }
  std::string out = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
  for (char c = '!'; c <= '~'; ++c) {
    if (c >= 'A' && c <= 'Z') continue;
    out += c;
    out += '\n';
  }
  // Single letters and digits as pieces spell any other word; numbers go two digits at a time.
  for (const char* prefix : {"", "##"}) {
    for (int i = 0; i < 100; ++i) {
      out += prefix;
      out += static_cast<char>('0' + i / 10);
      out += static_cast<char>('0' + i % 10);
      out += '\n';
    }
  }
  for (const std::string_view letters : {"abcdefghijklmnopqrstuvwxyz", "0123456789"}) {
    for (const char c : letters) {
      out += "##";
      out += c;
      out += '\n';
    }
  }
  for (const std::string_view ending : town_endings()) out += "##" + std::string(ending) + "\n";
  for (const std::string& word : whole) out += word + "\n";
  return out;
}

std::string make_config(std::int64_t vocabulary_size, float dropout, int positions) {
  // N(0, 0.02) suits 768 columns. With 128 the attention would begin nearly flat; at 0.08 the weights of a
  // layer keep the length of a row (0.08 is about 1 / sqrt(128)), and the model sooner finds the words that
  // question and paragraph share.
  const double p = std::round(1000 * static_cast<double>(dropout)) / 1000;
  const json config = {{"architectures", {"BertForQuestionAnswering"}},
                       {"attention_probs_dropout_prob", p},
                       {"hidden_act", "gelu"},
                       {"hidden_dropout_prob", p},
                       {"hidden_size", 128},
                       {"initializer_range", 0.08},
                       {"intermediate_size", 512},
                       {"layer_norm_eps", 1e-12},
                       {"max_position_embeddings", positions},
                       {"model_type", "bert"},
                       {"num_attention_heads", 4},
                       {"num_hidden_layers", 2},
                       {"pad_token_id", 0},
                       {"type_vocab_size", 2},
                       {"vocab_size", vocabulary_size}};
  return config.dump(2) + "\n";
}

}  // namespace
}  // namespace detail

embedded_set make_embedded_set() {
  using detail::part;
  embedded_set set;
  set.vocabulary = detail::make_vocabulary();
  set.config_json = detail::make_config(std::count(set.vocabulary.begin(), set.vocabulary.end(), '\n'),
                                        set.dropout, set.max_seq_length);
  std::tie(set.train_json, set.train_questions) = detail::make_part(part::train, 1, 82);
  std::tie(set.heldout_json, set.heldout_questions) = detail::make_part(part::heldout, 2, 5);
  return set;
}

}  // namespace bert_qa
