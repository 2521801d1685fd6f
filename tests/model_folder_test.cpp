#include "model_folder.hpp"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "files.hpp"
#include "input_error.hpp"
#include "scratch_folder.hpp"
#include "text_fixture.hpp"

using namespace bert_qa;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const json base = {{"architectures", {"BertForMaskedLM"}},
                   {"attention_probs_dropout_prob", 0.15},
                   {"hidden_act", "gelu_new"},
                   {"hidden_dropout_prob", 0.2},
                   {"hidden_size", 24},
                   {"initializer_range", 0.03},
                   {"intermediate_size", 96},
                   {"layer_norm_eps", 1e-10},
                   {"max_position_embeddings", 64},
                   {"model_type", "bert"},
                   {"num_attention_heads", 3},
                   {"num_hidden_layers", 2},
                   {"pad_token_id", 1},
                   {"type_vocab_size", 4},
                   {"vocab_size", 7},
                   {"id2label", {{"0", "a"}, {"1", "b"}, {"2", "c"}}},
                   {"gradient_checkpointing", false}};

json with(const char* key, const json& value) {
  json changed = base;
  changed[key] = value;
  return changed;
}

std::string refusal_of_text(const std::string& text) {
  const auto message = message_of<input_error>([&] { parse_bert_config(text, "config.json"); });
  CHECK(message.find('\n') == std::string::npos);
  CHECK(message.rfind("config.json: ", 0) == 0);
  return message;
}
std::string refusal(const json& config) { return refusal_of_text(config.dump()); }

void put(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// Sets variables for one test, and puts the old values back.
class environment {
 public:
  environment() {
    for (const char* name : names) {
      const char* value = ::getenv(name);
      old_.emplace_back(value ? value : "", value != nullptr);
      ::unsetenv(name);
    }
  }
  ~environment() {
    for (std::size_t i = 0; i < old_.size(); ++i) {
      if (old_[i].second) {
        ::setenv(names[i], old_[i].first.c_str(), 1);
      } else {
        ::unsetenv(names[i]);
      }
    }
  }
  void set(const char* name, const fs::path& value) { ::setenv(name, value.c_str(), 1); }

 private:
  static constexpr const char* names[] = {
      "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME", "SQUAD_DIR"};
  std::vector<std::pair<std::string, bool>> old_;
};

const std::string vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n";

}  // namespace

TEST_CASE("every value of config.json") {
  const bert_config config = parse_bert_config(base.dump(), "config.json");
  CHECK(config.hidden_size == 24);
  CHECK(config.num_hidden_layers == 2);
  CHECK(config.num_attention_heads == 3);
  CHECK(config.head_size() == 8);
  CHECK(config.intermediate_size == 96);
  CHECK(config.vocab_size == 7);
  CHECK(config.max_position_embeddings == 64);
  CHECK(config.type_vocab_size == 4);
  CHECK(config.pad_token_id == 1);
  CHECK(config.hidden_act == "gelu_new");
  CHECK(config.layer_norm_eps == 1e-10);
  CHECK(config.hidden_dropout_prob == 0.2);
  CHECK(config.attention_probs_dropout_prob == 0.15);
  CHECK(config.initializer_range == 0.03);

  CHECK(config.activation() == hidden_activation::gelu_tanh);
  const auto activation = [](const char* name) {
    return parse_bert_config(with("hidden_act", name).dump(), "f").activation();
  };
  CHECK(activation("gelu") == hidden_activation::gelu);
  CHECK(activation("gelu_pytorch_tanh") == hidden_activation::gelu_tanh);
  CHECK(activation("relu") == hidden_activation::relu);
}

TEST_CASE("what may be missing has BertConfig's value") {
  json few = base;
  for (const char* key : {"attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob",
                          "initializer_range", "layer_norm_eps", "pad_token_id", "type_vocab_size"}) {
    few.erase(key);
  }
  few["num_hidden_layers"] = 1;
  few["is_decoder"] = nullptr;
  const bert_config config = parse_bert_config(few.dump(), "f");
  CHECK(config.attention_probs_dropout_prob == 0.1);
  CHECK(config.hidden_dropout_prob == 0.1);
  CHECK(config.hidden_act == "gelu");
  CHECK(config.initializer_range == 0.02);
  CHECK(config.layer_norm_eps == 1e-12);
  CHECK(config.pad_token_id == 0);
  CHECK(config.type_vocab_size == 2);
  // Before there was a model_type, the class said what it is.
  json old = base;
  old.erase("model_type");
  CHECK(parse_bert_config(old.dump(), "f").hidden_size == 24);
}

TEST_CASE("a config that is not BERT's, or not possible") {
  CHECK(contains(refusal_of_text(""), "an empty file"));
  CHECK(contains(refusal_of_text("{"), "expected JSON"));
  CHECK(contains(refusal_of_text("[]"), "an object, found an array"));
  CHECK(refusal(with("model_type", "roberta")) ==
        "config.json: expected model_type \"bert\", found \"roberta\"");
  CHECK(contains(refusal(with("model_type", 5)), "found 5"));
  CHECK(contains(refusal_of_text("{}"), "expected model_type \"bert\", found none"));
  json unnamed = base;
  unnamed.erase("model_type");
  unnamed["architectures"] = {"T5Model"};
  CHECK(contains(refusal(unnamed), "T5Model"));
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                          "vocab_size", "max_position_embeddings"}) {
    json less = base;
    less.erase(key);
    CHECK(contains(refusal(less), std::string("expected ") + key + ", a whole number from 1 to "));
    CHECK(contains(refusal(less), "found none"));
    CHECK(contains(refusal(with(key, 0)), "found 0"));
    CHECK(contains(refusal(with(key, -3)), "found -3"));
    CHECK(contains(refusal(with(key, 1.5)), "found 1.5"));
    CHECK(contains(refusal(with(key, "24")), "found \"24\""));
    CHECK(contains(refusal(with(key, std::uint64_t{1} << 63)), "found 9223372036854775808"));
    CHECK(contains(refusal(with(key, std::int64_t{1} << 40)), "found 1099511627776"));
  }
  // A context has the type 1.
  CHECK(refusal(with("type_vocab_size", 1)) ==
        "config.json: expected type_vocab_size, a whole number from 2 to 1024, found 1");
  CHECK(contains(refusal(with("pad_token_id", 7)), "pad_token_id, a whole number from 0 to 6, found 7"));
  CHECK(contains(refusal(with("hidden_dropout_prob", 1)), "hidden_dropout_prob, a number from 0 to below 1"));
  CHECK(contains(refusal(with("attention_probs_dropout_prob", -0.1)), "found -0.1"));
  CHECK(contains(refusal(with("layer_norm_eps", 0)), "layer_norm_eps"));
  CHECK(contains(refusal(with("layer_norm_eps", "x")), "found \"x\""));
  CHECK(contains(refusal(with("num_attention_heads", 5)),
                 "hidden_size divisible by num_attention_heads, found 24 and 5"));
  CHECK(contains(refusal(with("hidden_act", "silu")),
                 "gelu, gelu_new, gelu_pytorch_tanh or relu, found \"silu\""));
  CHECK(contains(refusal(with("hidden_act", 3)), "hidden_act, a string"));
  CHECK(contains(refusal(with("position_embedding_type", "relative_key")), "\"relative_key\""));
  CHECK(contains(refusal(with("is_decoder", true)), "an encoder"));
}

TEST_CASE("a model is a folder, or a name in the cache") {
  const scratch_folder folder;
  environment env;
  put(folder / "here" / "config.json", "{}");
  put(folder / "file", "x");
  CHECK(find_model((folder / "here").string()) == folder / "here");
  CHECK(contains(message_of<input_error>([&] { find_model((folder / "file").string()); }),
                 "expected a folder with a model, found a file"));
  CHECK(contains(message_of<input_error>([&] { find_model((folder / "none").string()); }),
                 "found no such folder"));
  CHECK(contains(message_of<input_error>([&] { find_model("./none"); }), "found no such folder"));
  CHECK(contains(message_of<input_error>([&] { find_model("../../no/such"); }), "found no such folder"));

  // Each variable in its turn, the strongest last.
  const fs::path places[] = {folder / "home/.cache/huggingface/hub", folder / "xdg/huggingface/hub",
                             folder / "hf/hub", folder / "old", folder / "hub"};
  for (const fs::path& place : places) {
    put(place / "models--org--name/refs/main", "abc\n");
    put(place / "models--org--name/snapshots/abc/config.json", place.string());
    put(place / "models--org--name/snapshots/def/config.json", "{}");
  }
  const auto found = [] { return find_model("org/name").parent_path().parent_path().parent_path(); };
  env.set("HOME", folder / "home");
  CHECK(found() == places[0]);
  CHECK(find_model("org/name").filename() == "abc");
  env.set("XDG_CACHE_HOME", folder / "xdg");
  CHECK(found() == places[1]);
  env.set("HF_HOME", folder / "hf");
  CHECK(found() == places[2]);
  env.set("HUGGINGFACE_HUB_CACHE", folder / "old");
  CHECK(found() == places[3]);
  env.set("HF_HUB_CACHE", folder / "hub");
  CHECK(found() == places[4]);

  const auto refused = [](const char* name) { return message_of<input_error>([&] { find_model(name); }); };
  CHECK(refused("org/other") == "org/other: expected a folder, or a model in the Hugging Face cache " +
                                    places[4].string() + ", found neither; to get it: hf download org/other");
  put(places[4] / "models--org--name/refs/main", "gone");
  CHECK(
      contains(refused("org/name"), "refs/main: expected the name of a folder in snapshots, found \"gone\""));
  put(places[4] / "models--org--name/refs/main", "../../..");
  CHECK(contains(refused("org/name"), "found \"../../..\""));
  fs::remove(places[4] / "models--org--name/refs/main");
  CHECK(contains(refused("org/name"), "found 2 snapshots"));
  fs::remove_all(places[4] / "models--org--name/snapshots/abc");
  CHECK(find_model("org/name").filename() == "def");
  // The first models moved into an organisation; both names are in use.
  put(places[4] / "models--google-bert--bert-base-uncased/refs/main", "abc");
  put(places[4] / "models--google-bert--bert-base-uncased/snapshots/abc/config.json", "{}");
  CHECK(find_model("bert-base-uncased") == find_model("google-bert/bert-base-uncased"));
}

TEST_CASE("what a folder must have is named, with the way to get it") {
  const scratch_folder folder;
  const std::string at = folder.path.string();
  const auto refused = [&] { return message_of<input_error>([&] { read_model_files(folder.path); }); };
  CHECK(refused() == at + "/config.json: expected the configuration of a BERT model, found no such file");
  put(folder / "config.json", base.dump());
  CHECK(refused() == at + "/vocab.txt: expected a vocabulary, a token a line, found no such file");
  put(folder / "vocab.txt", vocab);
  CHECK(read_model_files(folder.path).tokenizer.do_lower_case);
  put(folder / "tokenizer_config.json", "{\"do_lower_case\": 3}");
  CHECK(contains(refused(), "tokenizer_config.json: do_lower_case: expected"));

  const auto weights = [&] { return message_of<input_error>([&] { find_weights(folder.path); }); };
  CHECK(weights() == at + "/model.safetensors: expected the weights, found no such file");
  fs::create_directory(folder / "model.safetensors");
  CHECK(weights() == at + "/model.safetensors: expected the weights, found a folder");
  fs::remove(folder / "model.safetensors");
  put(folder / "pytorch_model.bin", "x");
  CHECK(contains(weights(), "found only pytorch_model.bin; in Python: "));
  // AutoModel would leave the head behind, and the same folder would lose its config.json.
  CHECK(contains(weights(),
                 "AutoModelForQuestionAnswering.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER"));
  put(folder / "model.safetensors", "x");
  CHECK(find_weights(folder.path) == folder / "model.safetensors");
}

TEST_CASE("a vocabulary out of tokenizer.json, as Transformers 5 saves it") {
  const scratch_folder folder;
  put(folder / "config.json", base.dump());
  const auto with_vocab = [&](const json& tokens, const char* type = "WordPiece") {
    put(folder / "tokenizer.json", json{{"model", {{"type", type}, {"vocab", tokens}}}}.dump());
    return message_of<input_error>([&] { read_model_files(folder.path); });
  };
  CHECK(with_vocab({{"[PAD]", 0}, {"[UNK]", 1}, {"b", 3}, {"a", 2}}) == "");
  CHECK(read_model_files(folder.path).vocab == "[PAD]\n[UNK]\na\nb\n");
  CHECK(contains(with_vocab({{"a", 0}}, "BPE"),
                 "tokenizer.json: expected model.vocab of a WordPiece tokenizer"));
  CHECK(contains(with_vocab({{"a", 0}, {"b", 0}}), "found \"b\" as 0"));
  CHECK(contains(with_vocab({{"a", 0}, {"b", 7}}),
                 "numbered from 0 to 6 (vocab_size of config.json), found \"b\" as 7"));
  CHECK(
      contains(with_vocab({{"a", 0}, {"b", std::uint64_t{1} << 63}}), "found \"b\" as 9223372036854775808"));
  CHECK(contains(with_vocab({{"a", 0}, {"b", -1}}), "found \"b\" as -1"));
  CHECK(contains(with_vocab({{"a", 0}, {"b\nc", 1}}), "found \"b\\x0ac\" as 1"));
  CHECK(contains(with_vocab({{"a", 0}, {"b", "1"}}), "found \"b\" as \"1\""));
  CHECK(contains(with_vocab(json::array()), "found none"));
}

TEST_CASE("numbers without a token are kept, and match nothing") {
  const scratch_folder folder, target;
  put(folder / "config.json", base.dump());
  const json tokens = {{"[PAD]", 0}, {"[UNK]", 1}, {"[CLS]", 3}, {"[SEP]", 4}, {"a", 6}};
  put(folder / "tokenizer.json", json{{"model", {{"type", "WordPiece"}, {"vocab", tokens}}}}.dump());
  const model_files files = read_model_files(folder.path);
  CHECK(files.vocab == "[PAD]\n[UNK]\n\n[CLS]\n[SEP]\n\na\n");
  const tokenizer words(files.vocab, files.tokenizer, files.vocab_source);
  CHECK(words.size() == 7);
  CHECK(words.to_id("a") == 6);
  CHECK(words.encode("a ").size() == 1);
  CHECK(words.encode("a ")[0].id == 6);
  write_model_files(target.path, files);
  CHECK(read_model_files(target.path).vocab == files.vocab);
}

TEST_CASE("a tokenizer of a class that is not BERT's own is that of tokenizer.json") {
  const scratch_folder folder, target;
  put(folder / "config.json", base.dump());
  put(folder / "vocab.txt", "other\n");  // Transformers does not read it
  put(folder / "tokenizer_config.json", R"({"tokenizer_class": "TokenizersBackend", "do_lower_case": true})");
  CHECK(message_of<input_error>([&] { read_model_files(folder.path); }) ==
        (folder / "tokenizer.json").string() +
            ": expected the tokenizer, as tokenizer_class in tokenizer_config.json says, found no such file");
  json tokenizer = cased_tokenizer_json();
  tokenizer["model"]["vocab"] = {{"[PAD]", 0}, {"[UNK]", 1}, {"[CLS]", 2}, {"[SEP]", 3}, {"a", 4}};
  put(folder / "tokenizer.json", tokenizer.dump());
  const model_files read = read_model_files(folder.path);
  CHECK_FALSE(read.tokenizer.do_lower_case);
  CHECK(read.vocab == "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n");
  CHECK(read.vocab_source == (folder / "tokenizer.json").string());

  // What is written is read alike, by Transformers out of tokenizer.json, too.
  write_model_files(target.path, read);
  CHECK(read_file(target / "tokenizer.json") == tokenizer.dump());
  const json settings = json::parse(read_file(target / "tokenizer_config.json"));
  CHECK(settings["tokenizer_class"] == "TokenizersBackend");
  CHECK(settings["do_lower_case"] == false);
  CHECK(read_file(target / "vocab.txt") == read.vocab);
  CHECK_FALSE(read_model_files(target.path).tokenizer.do_lower_case);
}

TEST_CASE("a token that Transformers would take out of the text is named") {
  const scratch_folder folder;
  put(folder / "config.json", base.dump());
  put(folder / "vocab.txt", vocab + "[unused1]\n");
  const auto refusal_of = [&](const char* name, const json& contents) {
    put(folder / name, contents.dump());
    const auto text = message_of<input_error>([&] { read_model_files(folder.path); });
    fs::remove(folder / name);
    return text;
  };
  const auto refused = [&](const std::string& place, const char* token) {
    return folder.path.string() + "/" + place +
           ": expected no token beyond unk_token, sep_token, pad_token, cls_token and mask_token, found \"" +
           token + "\"";
  };
  const json sep = {{"content", "[SEP]"}, {"special", true}},
             entity = {{"content", "[ENT]"}, {"special", true}};
  CHECK(refusal_of("tokenizer.json", {{"added_tokens", {sep, entity}}}) ==
        refused("tokenizer.json: added_tokens[1]", "[ENT]"));
  CHECK(refusal_of("tokenizer_config.json", {{"added_tokens_decoder", {{"3", sep}, {"7", entity}}}}) ==
        refused("tokenizer_config.json: added_tokens_decoder.7", "[ENT]"));
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
      const std::string place = std::string(name) + ": " + key;
      CHECK(refusal_of(name, {{key, {"[SEP]", "[unused1]"}}}) == refused(place + "[1]", "[unused1]"));
      CHECK(refusal_of(name, {{key, {{"entity", "<e>"}}}}) == refused(place + ".entity", "<e>"));
    }
    CHECK(refusal_of(name, {{"bos_token", "<s>"}}) == refused(std::string(name) + ": bos_token", "<s>"));
  }
  CHECK(refusal_of("added_tokens.json", {{"[MASK]", 4}, {"new", 8}}) == refused("added_tokens.json", "new"));
  CHECK(contains(refusal_of("tokenizer.json", {{"added_tokens", {3}}}),
                 "added_tokens[0]: expected a string, found 3"));
  CHECK(contains(refusal_of("tokenizer.json", {{"added_tokens", "x"}}), "added_tokens: expected an array"));

  // The five, wherever they are named, and what has no effect.
  const json five = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  put(folder / "tokenizer_config.json", json{{"additional_special_tokens", json::array()},
                                             {"extra_special_tokens", json::object()},
                                             {"bos_token", "[CLS]"},
                                             {"eos_token", nullptr},
                                             {"add_bos_token", false},
                                             {"sep_token", sep}}
                                            .dump());
  CHECK(refusal_of("special_tokens_map.json", {{"additional_special_tokens", five}, {"sep_token", sep}}) ==
        "");
  CHECK(refusal_of("added_tokens.json", {{"[PAD]", 0}, {"[MASK]", 4}}) == "");
  CHECK(refusal_of("tokenizer.json", {{"added_tokens", {sep}}}) == "");
  // Transformers does not read these where tokenizer_config.json has them all.
  put(folder / "tokenizer_config.json", json{{"added_tokens_decoder", {{"3", sep}}}}.dump());
  CHECK(refusal_of("special_tokens_map.json", {{"additional_special_tokens", {"<e>"}}}) == "");
  CHECK(refusal_of("added_tokens.json", {{"new", 8}}) == "");
  // By another name it is one of the five.
  put(folder / "tokenizer_config.json", json{{"sep_token", "[ENT]"}}.dump());
  CHECK(refusal_of("tokenizer.json", {{"added_tokens", {entity}}}) == "");
}

TEST_CASE("what is written says question answering, and keeps what it does not know") {
  const scratch_folder source, target;
  put(source / "config.json", with("torch_dtype", "float16").dump());
  put(source / "vocab.txt", vocab);
  put(source / "tokenizer.json", "{\"any\": \"thing\"}");
  put(source / "tokenizer_config.json",
      R"({"do_lower_case": false, "strip_accents": true, "model_max_length": 99, "tokenizer_class": "BertTokenizer"})");
  const model_files files = read_model_files(source.path);
  CHECK(!files.tokenizer.do_lower_case);
  write_model_files(target.path, files);

  const json config = json::parse(read_file(target / "config.json"));
  CHECK(config["architectures"] == json{"BertForQuestionAnswering"});
  CHECK(config["torch_dtype"] == "float32");
  CHECK(!config.contains("id2label"));  // with it Transformers would make a head of three outputs
  CHECK(config["gradient_checkpointing"] == false);
  for (const auto& entry : base.items()) {
    if (entry.key() == "architectures" || entry.key() == "id2label") continue;
    CHECK_MESSAGE(config[entry.key()] == entry.value(), entry.key());
  }
  CHECK(read_file(target / "vocab.txt") == vocab);
  CHECK(read_file(target / "tokenizer.json") == "{\"any\": \"thing\"}");
  const json tokenizer = json::parse(read_file(target / "tokenizer_config.json"));
  CHECK(tokenizer["do_lower_case"] == false);
  CHECK(tokenizer["strip_accents"] == true);
  CHECK(tokenizer["model_max_length"] == 99);
  CHECK(tokenizer["cls_token"] == "[CLS]");
  CHECK(json::parse(read_file(target / "special_tokens_map.json")) == json{{"cls_token", "[CLS]"},
                                                                           {"mask_token", "[MASK]"},
                                                                           {"pad_token", "[PAD]"},
                                                                           {"sep_token", "[SEP]"},
                                                                           {"unk_token", "[UNK]"}});

  // Read and written again it is the same.
  const scratch_folder again;
  write_model_files(again.path, read_model_files(target.path));
  for (const auto& entry : fs::directory_iterator(target.path)) {
    CHECK(read_file(again / entry.path().filename()) == read_file(entry.path()));
  }
}

TEST_CASE("special tokens of another spelling are written as they were read") {
  const scratch_folder source, target;
  put(source / "config.json", base.dump());
  put(source / "vocab.txt", "<pad>\n[UNK]\n<cls>\n[SEP]\n[MASK]\na\n##b\n");
  put(source / "tokenizer_config.json", R"({"cls_token": "<cls>", "pad_token": {"content": "<pad>"}})");
  write_model_files(target.path, read_model_files(source.path));
  const json map = json::parse(read_file(target / "special_tokens_map.json"));
  CHECK(map == json{{"cls_token", "<cls>"},
                    {"mask_token", "[MASK]"},
                    {"pad_token", "<pad>"},
                    {"sep_token", "[SEP]"},
                    {"unk_token", "[UNK]"}});
  const json settings = json::parse(read_file(target / "tokenizer_config.json"));
  CHECK(settings["cls_token"] == "<cls>");
  CHECK(settings["sep_token"] == "[SEP]");
}

TEST_CASE("a model that was made here, without a source, can be written and read") {
  const scratch_folder folder;
  model_files made;
  made.config.hidden_size = 32;
  made.config.num_attention_heads = 4;
  made.config.vocab_size = 7;
  made.vocab = vocab;
  write_model_files(folder.path, made);
  const model_files read = read_model_files(folder.path);
  CHECK(read.config.hidden_size == 32);
  CHECK(read.config.num_attention_heads == 4);
  CHECK(read.vocab == vocab);
  CHECK(read.tokenizer.do_lower_case);
  CHECK(!read.tokenizer.strip_accents);
  CHECK(!fs::exists(folder / "tokenizer.json"));
  CHECK(json::parse(read_file(folder / "tokenizer_config.json"))["tokenizer_class"] == "BertTokenizer");
}

TEST_CASE("SQuAD's files") {
  const scratch_folder folder;
  environment env;
  const auto refused = [&](const char* name, const fs::path& place, bool train, bool validation) {
    return message_of<input_error>([&] { find_squad(name, place, train, validation); });
  };
  CHECK(contains(refused("glue", folder.path, true, true), "--dataset_name: expected squad or squad_v2"));
  CHECK(contains(refused("squad", "", true, true), "SQUAD_DIR, found neither; to get it: curl"));
  CHECK(contains(refused("squad", folder / "none", true, true), "found no such folder"));
  put(folder / "dev-v1.1.json", "{}");
  CHECK(find_squad("squad", folder.path, false, true).validation == folder / "dev-v1.1.json");
  CHECK(contains(refused("squad", folder.path, true, true),
                 (folder / "train-v1.1.json").string() +
                     ": expected SQuAD's file, found no such file; to get it: curl"));
  CHECK(contains(refused("squad_v2", folder.path, false, true), "dev-v2.0.json"));
  put(folder / "train-v1.1.json", "{}");
  env.set("SQUAD_DIR", folder.path);
  CHECK(find_squad("squad", "", true, true).train == folder / "train-v1.1.json");
}
