// The compiled-in question-answering set: what the example trains on when it is given nothing.
#include "embedded.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model_folder.hpp"
#include "squad.hpp"
#include "tokenizer.hpp"

namespace {

using nlohmann::json;

const bert_qa::embedded_set& the_set() {
  static const bert_qa::embedded_set set = bert_qa::make_embedded_set();
  return set;
}

struct row {
  std::string id, question, context, answer;
  std::size_t start;
};

std::vector<row> rows_of(const std::string& text) {
  const json file = json::parse(text);
  std::vector<row> rows;
  for (const json& article : file.at("data")) {
    REQUIRE(!article.at("title").get<std::string>().empty());
    for (const json& paragraph : article.at("paragraphs")) {
      for (const json& qa : paragraph.at("qas")) {
        REQUIRE(qa.at("answers").size() == 1);
        const json& answer = qa.at("answers")[0];
        rows.push_back({qa.at("id"), qa.at("question"), paragraph.at("context"), answer.at("text"),
                        answer.at("answer_start")});
      }
    }
  }
  return rows;
}

/// Byte of the code point number `index`, counted by the lead bytes.
std::size_t byte_of(const std::string& text, std::size_t index) {
  std::size_t byte = 0;
  for (; byte < text.size(); ++byte) {
    if ((static_cast<unsigned char>(text[byte]) & 0xc0u) == 0x80u) continue;
    if (index-- == 0) break;
  }
  return byte;
}

/// FNV-1a, 64 bits.
std::uint64_t hash(std::string_view bytes) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

/// Words of letters, as the tables write them: "Kirkfield", "Anna".
std::vector<std::string> capitalized(const std::string& text) {
  std::vector<std::string> out;
  std::string word;
  for (const char c : text + " ") {
    if (c == ' ' || c == '.' || c == ',' || c == '?') {
      if (!word.empty() && word[0] >= 'A' && word[0] <= 'Z') out.push_back(word);
      word.clear();
    } else {
      word += c;
    }
  }
  return out;
}

bool is_town(const bert_qa::tokenizer& words, const std::string& word) {
  static const std::set<std::string> endings = {"##bury", "##dale",  "##field", "##ford", "##ham",
                                                "##ley",  "##mouth", "##ton",   "##wick", "##worth"};
  const std::vector<bert_qa::token> pieces = words.encode(word);
  return pieces.size() == 2 && endings.count(words.to_token(pieces[1].id)) != 0;
}

const bert_qa::tokenizer& the_tokenizer() {
  static const bert_qa::tokenizer words(the_set().vocabulary, {}, "embedded");
  return words;
}

}  // namespace

TEST_CASE("embedded set: every answer stands where answer_start says, in code points") {
  std::size_t after_an_accent = 0;
  for (const std::string* text : {&the_set().train_json, &the_set().heldout_json}) {
    for (const row& r : rows_of(*text)) {
      CAPTURE(r.id);
      const std::size_t byte = byte_of(r.context, r.start);
      CHECK(r.context.compare(byte, r.answer.size(), r.answer) == 0);
      CHECK(!r.answer.empty());
      CHECK(r.question.back() == '?');
      CHECK(r.question.find_first_of("{}") == std::string::npos);
      CHECK(r.context.find_first_of("{}") == std::string::npos);
      CHECK(r.context.find("  ") == std::string::npos);
      CHECK((r.context.front() >= 'A' && r.context.front() <= 'Z'));
      if (byte != r.start) ++after_an_accent;
    }
  }
  CHECK(after_an_accent > 50);  // otherwise bytes and code points are not told apart
}

TEST_CASE("embedded set: ids are unique, sizes as stated") {
  std::set<std::string> ids;
  const std::vector<row> train = rows_of(the_set().train_json), heldout = rows_of(the_set().heldout_json);
  for (const row& r : train) CHECK(ids.insert(r.id).second);
  for (const row& r : heldout) CHECK(ids.insert(r.id).second);
  CHECK(static_cast<std::int64_t>(train.size()) == the_set().train_questions);
  CHECK(static_cast<std::int64_t>(heldout.size()) == the_set().heldout_questions);
  CHECK(train.size() >= 1500);
  CHECK(train.size() <= 4000);
  CHECK(heldout.size() >= 200);
  CHECK(heldout.size() <= 300);
}

TEST_CASE("embedded set: held-out paragraphs are new, and so are their people and towns") {
  std::set<std::string> contexts, towns, people;
  for (const row& r : rows_of(the_set().train_json)) {
    contexts.insert(r.context);
    const std::vector<std::string> names = capitalized(r.context);
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (is_town(the_tokenizer(), names[i])) towns.insert(names[i]);
      if (i > 0 && r.context.find(names[i - 1] + " " + names[i]) != std::string::npos) {
        people.insert(names[i - 1] + " " + names[i]);
      }
    }
  }
  CHECK(towns.size() > 60);
  CHECK(people.size() > 100);
  std::size_t new_towns = 0, new_people = 0;
  const std::set<std::string> first_names = {"Anna", "Mara",  "Ida",   "Nora", "Clara", "Tom",
                                             "Otto", "Jonas", "Felix", "Hugo", "Leo"};
  const std::set<std::string> surnames = {"Vale",  "Brandt", "Moss", "Hale",   "Winter", "Fisher",
                                          "Stone", "Lind",   "Berg", "Carter", "Novak",  "Frost"};
  for (const row& r : rows_of(the_set().heldout_json)) {
    CAPTURE(r.id);
    CHECK(contexts.count(r.context) == 0);
    const std::vector<std::string> names = capitalized(r.context);
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (is_town(the_tokenizer(), names[i])) {
        ++new_towns;
        CHECK(towns.count(names[i]) == 0);
      }
      if (i > 0 && first_names.count(names[i - 1]) && surnames.count(names[i])) {
        ++new_people;
        CHECK(people.count(names[i - 1] + " " + names[i]) == 0);
      }
    }
  }
  CHECK(new_towns > 100);
  CHECK(new_people > 100);
}

TEST_CASE("embedded set: the vocabulary spells all of it, and any other word") {
  const bert_qa::tokenizer& words = the_tokenizer();
  std::set<std::string> tokens;
  for (std::int32_t i = 0; i < words.size(); ++i) CHECK(tokens.insert(words.to_token(i)).second);
  CHECK(json::parse(the_set().config_json).at("vocab_size") == words.size());
  CHECK(words.mask_id().has_value());

  std::size_t longest = 0;
  for (const std::string* text : {&the_set().train_json, &the_set().heldout_json}) {
    for (const row& r : rows_of(*text)) {
      const std::vector<bert_qa::token> context = words.encode(r.context),
                                        question = words.encode(r.question);
      for (const std::vector<bert_qa::token>* part : {&context, &question}) {
        for (const bert_qa::token& t : *part) CHECK(t.id != words.unk_id());
        // A word is never spelled out letter by letter: the tables' words are all there.
        for (const bert_qa::token& t : *part) {
          const std::string& piece = words.to_token(t.id);
          CHECK(!(piece.size() == 3 && piece[0] == '#' && piece[2] >= 'a' && piece[2] <= 'z'));
        }
      }
      longest = std::max(longest, context.size() + question.size() + 3);
      // Both ends of the answer lie on borders of tokens.
      const auto begin = static_cast<std::int32_t>(r.start);
      const std::size_t last = byte_of(r.context, r.start) + r.answer.size();
      const auto end = static_cast<std::int32_t>(
          std::count_if(r.context.begin(), r.context.begin() + static_cast<std::ptrdiff_t>(last),
                        [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) != 0x80u; }));
      CHECK(std::any_of(context.begin(), context.end(),
                        [&](const bert_qa::token& t) { return t.begin == begin; }));
      CHECK(
          std::any_of(context.begin(), context.end(), [&](const bert_qa::token& t) { return t.end == end; }));
    }
  }
  CHECK(static_cast<int>(longest) <= the_set().max_seq_length);

  for (const bert_qa::token& t : words.encode("Xylophone quizzes: 1234567, \"jabberwocky\" & naïve!")) {
    CHECK(t.id != words.unk_id());
  }
}

TEST_CASE("embedded set: the program's own readers accept it") {
  const bert_qa::embedded_set& set = the_set();
  const auto train = static_cast<std::int64_t>(bert_qa::parse_squad(set.train_json, "embedded", true).size());
  const auto heldout =
      static_cast<std::int64_t>(bert_qa::parse_squad(set.heldout_json, "embedded", true).size());
  CHECK(train == set.train_questions);
  CHECK(heldout == set.heldout_questions);
  const bert_qa::bert_config config = bert_qa::parse_bert_config(set.config_json, "embedded");
  CHECK(config.vocab_size == the_tokenizer().size());
  CHECK(config.max_position_embeddings >= set.max_seq_length);
  CHECK(config.hidden_dropout_prob == doctest::Approx(static_cast<double>(set.dropout)));
  CHECK(config.initializer_range == 0.08);
  CHECK(config.head_size() == 32);
}

TEST_CASE("embedded set: the same bytes always and everywhere") {
  const bert_qa::embedded_set again = bert_qa::make_embedded_set();
  CHECK(again.train_json == the_set().train_json);
  CHECK(again.heldout_json == the_set().heldout_json);
  // Change these when the tables change; a different value on another platform is a defect.
  CHECK(hash(the_set().vocabulary) == 17355808548558561691u);
  CHECK(hash(the_set().config_json) == 5114155308370836930u);
  CHECK(hash(the_set().train_json) == 13362930676638873678u);
  CHECK(hash(the_set().heldout_json) == 16338417138351637116u);
}
