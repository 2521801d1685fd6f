// The tokenizer against the Rust tokenizer of Transformers: ids and offsets of tests/data/tokenizer.json,
// which tests/fixtures/make_tokenizer_fixture.py made.
#include "tokenizer.hpp"

#include <doctest/doctest.h>

#include <string>
#include <tuple>
#include <vector>

#include "input_error.hpp"
#include "text_fixture.hpp"
#include "unicode.hpp"

using bert_qa::input_error;
using bert_qa::tokenizer;
using bert_qa::tokenizer_options;

namespace {

bert_qa::tokenizer make(const tokenizer_options& options = {}) {
  return tokenizer(test_data("vocab.txt"), options, "vocab.txt");
}

std::vector<std::int32_t> flat(const std::vector<bert_qa::token>& tokens) {
  std::vector<std::int32_t> out;
  std::int32_t before = 0;
  for (const bert_qa::token& t : tokens) {
    out.insert(out.end(), {t.id, t.begin - before, t.end - t.begin});
    before = t.end;
  }
  return out;
}

std::string pieces(const tokenizer& words, const std::string& text) {
  std::string out;
  for (const bert_qa::token& t : words.encode(text)) out += (out.empty() ? "" : " ") + words.to_token(t.id);
  return out;
}

std::string message(const std::string& vocabulary) {
  try {
    tokenizer(vocabulary, {}, "folder/vocab.txt");
  } catch (const input_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("ids and offsets equal the reference's") {
  const nlohmann::json fixture = test_json("tokenizer.json");
  std::vector<tokenizer> tokenizers;
  for (const auto& config : fixture["configs"]) {
    tokenizer_options options;
    options.do_lower_case = config["lower"].get<bool>();
    if (!config["strip"].is_null()) options.strip_accents = config["strip"].get<bool>();
    options.tokenize_chinese_chars = config["han"].get<bool>();
    tokenizers.push_back(make(options));
  }
  std::size_t tokens = 0, known = 0;
  for (const auto& row : fixture["cases"]) {
    const std::string text = row[0].get<std::string>();
    for (std::size_t k = 1; k < row.size(); ++k) {
      const auto found = tokenizers[k - 1].encode(text);
      CAPTURE(text);
      CAPTURE(k);
      CHECK(flat(found) == row[k].get<std::vector<std::int32_t>>());
      tokens += found.size();
      for (const auto& t : found) known += t.id != tokenizers[0].unk_id() ? 1u : 0u;
    }
  }
  CHECK(fixture["cases"].size() >= 2000);
  CHECK(tokenizers.size() == 4);
  CHECK(known > tokens * 3 / 4);  // a fixture of [UNK] would prove little
}

TEST_CASE("offsets count code points of the text that was given") {
  const tokenizer words = make();
  const std::string text = "\xF0\x9F\x98\x80 \xC3\x89t\xC3\xA9, The e\xCC\x81nd";  // 😀 Été, The énd
  const std::vector<bert_qa::token> tokens = words.encode(text);
  REQUIRE(tokens.size() >= 4);
  CHECK(tokens[0].begin == 0);
  CHECK(tokens[0].end == 1);
  CHECK(tokens.back().end == bert_qa::unicode::length(text));
  for (const bert_qa::token& t : tokens) {
    if (words.to_token(t.id) == "the") CHECK(bert_qa::unicode::slice(text, t.begin, t.end) == "The");
    if (words.to_token(t.id) == ",") CHECK(bert_qa::unicode::slice(text, t.begin, t.end) == ",");
  }
}

TEST_CASE("text that is not UTF-8 does not fail") {
  const tokenizer words = make();
  CHECK(pieces(words, "the \xff house") == "the house");
  CHECK(pieces(words, "the\xC3") == "the");
  CHECK(pieces(words, "\xE2\x82") == "");
  CHECK(pieces(words, "\xED\xA0\x80") == "");        // a surrogate
  CHECK(pieces(words, "\xC0\xAFthe") == "the");      // an overlong slash
  CHECK(words.encode("a\xff\xfe b")[1].begin == 4);  // every bad byte counts as one character
  std::string every;
  for (int i = 0; i < 4096; ++i) every += static_cast<char>((i * 167 + i / 7) & 0xff);
  CHECK_NOTHROW(words.encode(every));
  CHECK(pieces(words, std::string("the\0house", 9)) != "");
}

TEST_CASE("look-ups and special tokens") {
  const tokenizer words = make();
  CHECK(words.pad_id() == 0);
  CHECK(words.unk_id() == 1);
  CHECK(words.cls_id() == 2);
  CHECK(words.sep_id() == 3);
  CHECK(words.mask_id() == 4);
  for (std::int32_t id = 0; id < words.size(); ++id) CHECK(words.to_id(words.to_token(id)) == id);
  CHECK_FALSE(words.to_id("no such token"));
  CHECK_FALSE(words.to_id(""));
  CHECK_FALSE(words.to_id("\xff"));
  CHECK_THROWS_AS(words.to_token(words.size()), std::out_of_range);
  CHECK_THROWS_AS(words.to_token(-1), std::out_of_range);
}

TEST_CASE("a small vocabulary by hand") {
  // longest match first, from the front, each piece by its own
  const tokenizer words("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nun\r\nunable\r\n##able\r\n##a\r\n##b\r\n", {},
                        "v");
  CHECK(words.size() == 9);
  CHECK(pieces(words, "unable unableab unabl") == "unable unable ##a ##b [UNK]");
  CHECK(pieces(words, "[MASK]") == "[UNK] [UNK] [UNK]");  // not in this vocabulary
  CHECK_FALSE(words.mask_id());
  // without a line feed at the end, and without any continuation
  const tokenizer bare("[PAD]\n[UNK]\n[CLS]\n[SEP]\nun", {}, "v");
  CHECK(bare.size() == 5);
  CHECK(pieces(bare, "un unun") == "un [UNK]");
  // the later of two equal tokens
  const tokenizer twice("[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\nx\nun\n", {}, "v");
  CHECK(twice.to_id("un") == 6);
}

TEST_CASE("a bad vocabulary is named") {
  CHECK(message("") == "folder/vocab.txt: expected a vocabulary with [PAD], found 0 tokens without it");
  CHECK(message("[PAD]\n[UNK]\n[SEP]\n") ==
        "folder/vocab.txt: expected a vocabulary with [CLS], found 3 tokens without it");
  CHECK(message("[PAD]\n[CLS]\n[SEP]\n") ==
        "folder/vocab.txt: expected a vocabulary with [UNK], found 3 tokens without it");
  CHECK(message("[PAD]\n[CLS]\n[UNK]\n") ==
        "folder/vocab.txt: expected a vocabulary with [SEP], found 3 tokens without it");
  CHECK(message("[PAD]\n\xff\n[UNK]\n") ==
        "folder/vocab.txt line 2: expected UTF-8, found bytes that are not");
  CHECK(message("[PAD]\n" + std::string(5000, '\0')) ==
        "folder/vocab.txt line 2: expected a token of at most 4096 bytes, found 5000");
}

TEST_CASE("special tokens by other names") {
  tokenizer_options options;
  options.pad_token = "<pad>";
  options.unk_token = "<unk>";
  options.cls_token = "<s>";
  options.sep_token = "</s>";
  options.mask_token = "<s>>";
  const tokenizer words("<pad>\n<unk>\n<s>\n</s>\nun\n<s>>\n", options, "v");
  CHECK(words.cls_id() == 2);
  CHECK(pieces(words, "un</s>un<s>>x<s>") == "un </s> un <s>> <unk> <s>");
  CHECK_THROWS_AS(tokenizer("<pad>\n<unk>\n<s>\n</s>\n", {}, "v"), input_error);
}

TEST_CASE("tokenizer_config.json") {
  const auto read = [](const char* bytes) { return bert_qa::parse_tokenizer_config(bytes, "t.json"); };
  CHECK(read("{}").do_lower_case);
  CHECK_FALSE(read("{}").strip_accents);
  CHECK(read("{}").tokenize_chinese_chars);
  CHECK(read("{}").unk_token == "[UNK]");
  const auto all = read(R"({"do_lower_case":false,"strip_accents":true,"tokenize_chinese_chars":false,
                            "tokenizer_class":"BertTokenizerFast","sep_token":{"content":"</s>"}})");
  CHECK_FALSE(all.do_lower_case);
  CHECK(all.strip_accents == true);
  CHECK_FALSE(all.tokenize_chinese_chars);
  CHECK(all.sep_token == "</s>");
  CHECK_FALSE(read(R"({"strip_accents":null})").strip_accents);
  CHECK(read(R"({"strip_accents":false})").strip_accents == false);
  CHECK_THROWS_WITH_AS(read(R"({"do_lower_case":1})"),
                       "t.json: do_lower_case: expected true or false, found 1", input_error);
  CHECK_FALSE(read("{}").max_length);
  CHECK_FALSE(read(R"({"model_max_length":null})").max_length);
  CHECK_FALSE(read(R"({"model_max_length":1000000000000000019884624838656})").max_length);
  CHECK_FALSE(read(R"({"model_max_length":1e30})").max_length);
  CHECK(read(R"({"model_max_length":384})").max_length == 384);
  CHECK(read(R"({"model_max_length":512.0})").max_length == 512);
  CHECK_THROWS_WITH_AS(read(R"({"model_max_length":0})"),
                       "t.json: model_max_length: expected a number from 1, found 0", input_error);
  CHECK_THROWS_WITH_AS(read(R"({"model_max_length":"384"})"),
                       "t.json: model_max_length: expected a number, found \"384\"", input_error);
  CHECK_THROWS_WITH_AS(read("[]"), "t.json: expected an object, found an array", input_error);
  CHECK_THROWS_WITH_AS(read(R"({"tokenizer_class":"RobertaTokenizer"})"),
                       "t.json: tokenizer_class: expected BertTokenizer, found \"RobertaTokenizer\"",
                       input_error);
}

TEST_CASE("tokenizer.json, where the class is not BERT's own") {
  for (const char* name : {"PreTrainedTokenizerFast", "TokenizersBackend"}) {
    CHECK(bert_qa::parse_tokenizer_config(R"({"tokenizer_class":")" + std::string(name) + "\"}", "t.json")
              .from_tokenizer_json);
  }
  for (const char* bytes :
       {"{}", R"({"tokenizer_class":"BertTokenizer"})", R"({"tokenizer_class":"BertTokenizerFast"})"}) {
    CHECK_FALSE(bert_qa::parse_tokenizer_config(bytes, "t.json").from_tokenizer_json);
  }

  nlohmann::json cased = cased_tokenizer_json();
  cased["normalizer"]["clean_text"] = cased["normalizer"]["handle_chinese_chars"] = false;
  cased["normalizer"]["strip_accents"] = nullptr;
  const auto read = [](const nlohmann::json& file) {
    tokenizer_options options;
    options.strip_accents = true;  // of tokenizer_config.json: it does not count
    bert_qa::parse_tokenizer_json(file.dump(), "t.json", options);
    return options;
  };
  const tokenizer_options options = read(cased);
  CHECK_FALSE(options.clean_text);
  CHECK_FALSE(options.do_lower_case);
  CHECK_FALSE(options.tokenize_chinese_chars);
  CHECK_FALSE(options.strip_accents);
  nlohmann::json other = cased;
  for (const char* key : {"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"})
    other["normalizer"][key] = true;
  CHECK(read(other).clean_text);
  CHECK(read(other).do_lower_case);
  CHECK(read(other).tokenize_chinese_chars);
  CHECK(read(other).strip_accents == true);

  const auto refusal = [&](const char* part, const char* key, const nlohmann::json& value) {
    nlohmann::json changed = cased;
    if (*key) {
      changed[part][key] = value;
    } else {
      changed[part] = value;
    }
    try {
      read(changed);
    } catch (const input_error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(refusal("normalizer", "", nullptr) == "t.json: normalizer: expected an object, found null");
  CHECK(refusal("normalizer", "type", "Lowercase") ==
        "t.json: normalizer.type: expected \"BertNormalizer\", found \"Lowercase\"");
  CHECK(refusal("normalizer", "lowercase", 1) ==
        "t.json: normalizer.lowercase: expected true or false, found 1");
  CHECK(refusal("normalizer", "strip_accents", "no") ==
        "t.json: normalizer.strip_accents: expected true or false, found \"no\"");
  CHECK(refusal("pre_tokenizer", "type", "Whitespace") ==
        "t.json: pre_tokenizer.type: expected \"BertPreTokenizer\", found \"Whitespace\"");
  CHECK(refusal("model", "type", "BPE") == "t.json: model.type: expected \"WordPiece\", found \"BPE\"");
  CHECK(refusal("model", "continuing_subword_prefix", "@@") ==
        "t.json: model.continuing_subword_prefix: expected \"##\", found \"@@\"");
  CHECK(refusal("model", "max_input_chars_per_word", 50) ==
        "t.json: model.max_input_chars_per_word: expected 100, found 50");
  CHECK(refusal("model", "unk_token", nullptr) == "t.json: model.unk_token: expected \"[UNK]\", found null");
  for (const char* part : {"normalizer", "pre_tokenizer", "model"}) {
    nlohmann::json less = cased;
    less.erase(part);
    CHECK_THROWS_WITH_AS(read(less),
                         ("t.json: expected the key \"" + std::string(part) + "\", found none").c_str(),
                         input_error);
  }
}

TEST_CASE("text that is not cleaned is split at all white space, and keeps its control characters") {
  tokenizer_options options;
  options.clean_text = false;
  const tokenizer words("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##a\na\x01\n", options, "v");
  const std::string text = "a\ta\x0b\x61\xC2\x85\x61\xE2\x80\xA8\x61 a\x01 \xEF\xBF\xBD";
  CHECK(pieces(words, text) == "a a a a a a\x01 [UNK]");
  CHECK(pieces(make(), "a\x01\x61") == pieces(make(), "aa"));
}
