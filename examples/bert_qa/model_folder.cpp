#include "model_folder.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "files.hpp"
#include "input_error.hpp"
#include "json_input.hpp"

namespace bert_qa {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

json parse_object(std::string_view text, const std::string& source) {
  json parsed = parse_json(text, source);
  require_kind(parsed, json_kind::object, {source, ""});
  return parsed;
}

/// Reads the values of one JSON object, with errors that name the file and the key.
class fields {
 public:
  fields(const json& object, const std::string& source) : object_(object), source_(source) {}

  void whole(const char* key, std::int64_t& value, std::int64_t smallest, std::int64_t largest,
             bool required = false) const {
    const json* found = find(key);
    const std::string range = "from " + std::to_string(smallest) + " to " + std::to_string(largest);
    const std::string expected = std::string(key) + ", a whole number " + range;
    if (!found) {
      if (required) throw input_error(source_, expected, "none");
      return;
    }
    if (!found->is_number_integer()) throw input_error(source_, expected, describe(*found));
    // A number beyond 2^63 would turn negative.
    const bool huge = found->is_number_unsigned() && found->get<std::uint64_t>() > std::uint64_t{1} << 62;
    value = huge ? largest : found->get<std::int64_t>();
    if (huge || value < smallest || value > largest) throw input_error(source_, expected, describe(*found));
  }

  template <class Valid>
  void real(const char* key, double& value, const char* range, Valid valid) const {
    const json* found = find(key);
    if (!found) return;
    if (!found->is_number() || !valid(found->get<double>())) {
      throw input_error(source_, std::string(key) + ", a number " + range, describe(*found));
    }
    value = found->get<double>();
  }

  void flag(const char* key, bool& value) const {
    const json* found = find(key);
    if (!found) return;
    if (!found->is_boolean())
      throw input_error(source_, std::string(key) + ", true or false", describe(*found));
    value = found->get<bool>();
  }

  void text(const char* key, std::string& value) const {
    const json* found = find(key);
    if (!found) return;
    // Older files write a token as an object with its content and how it strips blanks.
    if (found->is_object() && found->contains("content")) found = &(*found)["content"];
    if (!found->is_string()) throw input_error(source_, std::string(key) + ", a string", describe(*found));
    value = found->get<std::string>();
  }

  /// null is how Python writes "nothing said".
  const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

 private:
  const json& object_;
  const std::string& source_;
};

/// Of the texts in a model's folder: a hundred times BERT's tokenizer.json.
constexpr std::size_t most_text = std::size_t{64} << 20;

std::string read_text(const fs::path& path, std::string_view what = "a file") {
  return read_file(path, what, most_text);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path hub_cache() {
  // In the order of huggingface_hub.
  if (const auto set = environment("HF_HUB_CACHE"); !set.empty()) return set;
  if (const auto set = environment("HUGGINGFACE_HUB_CACHE"); !set.empty()) return set;
  if (const auto set = environment("HF_HOME"); !set.empty()) return fs::path(set) / "hub";
  if (const auto set = environment("XDG_CACHE_HOME"); !set.empty())
    return fs::path(set) / "huggingface" / "hub";
  return fs::path(environment("HOME")) / ".cache" / "huggingface" / "hub";
}

/// org/name or name, as the Hub allows them; anything else can only be meant as a path.
bool is_hub_name(std::string_view name) {
  if (name.empty() || name.front() == '.' || name.front() == '/' || name.back() == '/') return false;
  if (std::count(name.begin(), name.end(), '/') > 1) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.' || c == '/';
  });
}

fs::path repository_folder(const fs::path& cache, std::string_view name) {
  std::string folder = "models--" + std::string(name);
  if (const auto slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  return cache / folder;
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored) && !fs::is_directory(path, ignored);
}

fs::path snapshot_of(const fs::path& repository, const std::string& name) {
  if (const fs::path main = repository / "refs" / "main"; is_file(main)) {
    std::string revision = read_text(main, "the name of a revision");
    while (!revision.empty() && std::isspace(static_cast<unsigned char>(revision.back())))
      revision.pop_back();
    const fs::path snapshot = repository / "snapshots" / revision;
    if (!revision.empty() && revision.find('/') == std::string::npos && is_folder(snapshot)) return snapshot;
    throw input_error(main.string(), "the name of a folder in snapshots", quote(revision));
  }
  std::vector<fs::path> snapshots;
  std::error_code error;
  for (fs::directory_iterator entry(repository / "snapshots", error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->is_directory()) snapshots.push_back(entry->path());
  }
  if (snapshots.size() == 1) return snapshots.front();
  throw input_error(repository.string(), "refs/main or one snapshot of " + name,
                    std::to_string(snapshots.size()) + " snapshots");
}

// With the head, and into another folder, so that nothing is overwritten.
constexpr const char* how_to_save =
    "; in Python: AutoModelForQuestionAnswering.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER, "
    "safe_serialization=True); AutoTokenizer.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER)";

}  // namespace

hidden_activation bert_config::activation() const {
  if (hidden_act == "gelu") return hidden_activation::gelu;
  if (hidden_act == "gelu_new" || hidden_act == "gelu_pytorch_tanh") return hidden_activation::gelu_tanh;
  if (hidden_act == "relu") return hidden_activation::relu;
  throw input_error("hidden_act", "gelu, gelu_new, gelu_pytorch_tanh or relu", quote(hidden_act));
}

bert_config parse_bert_config(std::string_view text, const std::string& source) {
  const json object = parse_object(text, source);
  const fields read(object, source);

  const json* type = read.find("model_type");
  const json* architectures = read.find("architectures");
  // Files older than model_type have only the class.
  const bool has_class = !type && architectures && architectures->is_array() && !architectures->empty();
  const std::string found = describe(type ? *type : has_class ? architectures->front() : json("none"));
  if (type ? *type != "bert" : found.rfind("\"Bert", 0) != 0) {
    throw input_error(source, "model_type \"bert\"", type || has_class ? found : "none");
  }

  bert_config config;
  constexpr std::int64_t million = 1 << 20;
  read.whole("hidden_size", config.hidden_size, 1, million, true);
  read.whole("num_hidden_layers", config.num_hidden_layers, 1, 1024, true);
  read.whole("num_attention_heads", config.num_attention_heads, 1, 4096, true);
  read.whole("intermediate_size", config.intermediate_size, 1, 4 * million, true);
  read.whole("vocab_size", config.vocab_size, 1, 64 * million, true);
  read.whole("max_position_embeddings", config.max_position_embeddings, 1, 65535, true);
  read.whole("type_vocab_size", config.type_vocab_size, 2, 1024);  // of the question and of the context
  read.whole("pad_token_id", config.pad_token_id, 0, config.vocab_size - 1);
  const auto probability = [](double p) { return p >= 0 && p < 1; };
  read.real("layer_norm_eps", config.layer_norm_eps, "above 0 and below 1",
            [](double eps) { return eps > 0 && eps < 1; });
  read.real("hidden_dropout_prob", config.hidden_dropout_prob, "from 0 to below 1", probability);
  read.real("attention_probs_dropout_prob", config.attention_probs_dropout_prob, "from 0 to below 1",
            probability);
  read.real("initializer_range", config.initializer_range, "from 0 to below 1", probability);
  read.text("hidden_act", config.hidden_act);

  if (config.hidden_size % config.num_attention_heads != 0) {
    throw input_error(
        source, "hidden_size divisible by num_attention_heads",
        std::to_string(config.hidden_size) + " and " + std::to_string(config.num_attention_heads));
  }
  try {
    config.activation();
  } catch (const input_error& error) {
    throw input_error(source + ": " + error.what());
  }
  std::string positions = "absolute";
  read.text("position_embedding_type", positions);
  if (positions != "absolute") {
    throw input_error(source, "position_embedding_type \"absolute\"", quote(positions));
  }
  bool decoder = false;
  read.flag("is_decoder", decoder);
  if (decoder) throw input_error(source, "an encoder", "is_decoder true");
  return config;
}

fs::path find_model(const std::string& name_or_path) {
  if (is_folder(name_or_path)) return name_or_path;
  if (is_file(name_or_path)) throw input_error(name_or_path, "a folder with a model", "a file");
  if (!is_hub_name(name_or_path)) throw input_error(name_or_path, "a folder with a model", "no such folder");

  const fs::path cache = hub_cache();
  fs::path repository = repository_folder(cache, name_or_path);
  // The Hub moved the first models into an organisation, and answers to both names.
  if (!is_folder(repository) && name_or_path.find('/') == std::string::npos) {
    repository = repository_folder(cache, "google-bert/" + name_or_path);
  }
  if (!is_folder(repository)) {
    throw input_error(name_or_path, "a folder, or a model in the Hugging Face cache " + cache.string(),
                      "neither; to get it: hf download " + name_or_path);
  }
  return snapshot_of(repository, name_or_path);
}

fs::path find_weights(const fs::path& folder) {
  const fs::path weights = folder / "model.safetensors";
  if (is_file(weights)) return weights;
  std::string found = is_folder(weights) ? "a folder" : "no such file";
  for (const char* other :
       {"pytorch_model.bin", "model.safetensors.index.json", "tf_model.h5", "flax_model.msgpack"}) {
    if (is_file(folder / other)) {
      found = "only " + std::string(other) + how_to_save;
      break;
    }
  }
  throw input_error(weights.string(), "the weights", found);
}

namespace {

/// Transformers 5 saves no vocab.txt: the same tokens are in tokenizer.json, with their numbers. A number
/// without a token, as that of the first of two equal lines of a vocab.txt, becomes an empty line, which no
/// text matches.
std::string vocab_of(const json& tokenizer, const std::string& source, std::int64_t vocab_size) {
  const auto model = tokenizer.find("model");
  const std::string expected = "model.vocab of a WordPiece tokenizer, numbered from 0 to " +
                               std::to_string(vocab_size - 1) + " (vocab_size of config.json)";
  if (model == tokenizer.end() || !model->is_object() || model->value("type", json()) != "WordPiece" ||
      !model->contains("vocab") || !(*model)["vocab"].is_object()) {
    throw input_error(source, expected, "none");
  }
  const json& vocab = (*model)["vocab"];
  std::vector<const std::string*> tokens;
  for (auto entry = vocab.begin(); entry != vocab.end(); ++entry) {
    const bool in_range =
        entry->is_number_unsigned() && entry->get<std::uint64_t>() < static_cast<std::uint64_t>(vocab_size);
    const std::size_t number = in_range ? entry->get<std::size_t>() : 0;
    if (in_range && number >= tokens.size()) tokens.resize(number + 1);
    if (!in_range || tokens[number] || entry.key().find('\n') != std::string::npos) {
      throw input_error(source, expected, quote(entry.key()) + " as " + describe(*entry));
    }
    tokens[number] = &entry.key();
  }
  std::string text;
  for (const std::string* token : tokens) (text += token ? *token : "") += '\n';
  return text;
}

/// Transformers takes added tokens out of the text before it cuts that into pieces. The tokenizer here does
/// so with five of them, and says no to another rather than cut it.
class added_tokens {
 public:
  explicit added_tokens(const tokenizer_options& options)
      : known_{options.unk_token, options.sep_token, options.pad_token, options.cls_token,
               options.mask_token} {}

  /// A string, or an object with it as its content; null is none.
  void one(const json& token, const json_place& place) const {
    if (token.is_null()) return;
    const json* text = &token;
    if (token.is_object()) text = &require_member(token, "content", json_kind::string, place);
    require_kind(*text, json_kind::string, place);
    const auto& name = text->get_ref<const std::string&>();
    if (!name.empty() && std::ranges::find(known_, name) == known_.end())
      throw input_error(place.text(),
                        "no token beyond unk_token, sep_token, pad_token, cls_token and mask_token",
                        quote(name));
  }

  /// A list, or an object of names and tokens, under a key that may be missing.
  void all(const json& object, const char* key, const json_place& root) const {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return;
    if (!found->is_object()) require_kind(*found, json_kind::array, root.key(key));
    for (const auto& [name, token] : found->items())
      one(token, found->is_object() ? root.key(key).key(name) : root.key(key).element(std::stoul(name)));
  }

  /// The keys of tokenizer_config.json and special_tokens_map.json.
  void named(const json& object, const json_place& root) const {
    for (const char* key : {"added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"})
      all(object, key, root);
    for (const auto& [name, token] : object.items())
      if (name.ends_with("_token") && (token.is_string() || token.is_object())) one(token, root.key(name));
  }

 private:
  std::vector<std::string> known_;
};

void refuse_added_tokens(const fs::path& folder, const model_files& files, const json& tokenizer) {
  const added_tokens refuse(files.tokenizer);
  bool older = true;  // files of older versions, which are read where a newer has not said it all
  if (const std::string name = (folder / "tokenizer_config.json").string();
      !files.tokenizer_config_json.empty()) {
    const json settings = parse_object(files.tokenizer_config_json, name);
    refuse.named(settings, {name, ""});
    older = !settings.contains("added_tokens_decoder");
  }
  if (const std::string name = (folder / "special_tokens_map.json").string(); older && is_file(name))
    refuse.named(parse_object(read_text(name), name), {name, ""});
  if (const std::string name = (folder / "added_tokens.json").string(); older && is_file(name)) {
    const json tokens = parse_object(read_text(name), name);
    for (const auto& [token, number] : tokens.items()) refuse.one(token, {name, ""});
  }
  refuse.all(tokenizer, "added_tokens", {(folder / "tokenizer.json").string(), ""});
}

}  // namespace

model_files read_model_files(const fs::path& folder) {
  model_files files;
  files.config_json = read_text(folder / "config.json", "the configuration of a BERT model");
  files.config = parse_bert_config(files.config_json, (folder / "config.json").string());
  if (is_file(folder / "tokenizer_config.json")) {
    files.tokenizer_config_json = read_text(folder / "tokenizer_config.json");
    files.tokenizer =
        parse_tokenizer_config(files.tokenizer_config_json, (folder / "tokenizer_config.json").string());
  }
  const fs::path tokenizer = folder / "tokenizer.json";
  if (files.tokenizer.from_tokenizer_json) {
    files.tokenizer_json =
        read_text(tokenizer, "the tokenizer, as tokenizer_class in tokenizer_config.json says");
    parse_tokenizer_json(files.tokenizer_json, tokenizer.string(), files.tokenizer);
  } else if (is_file(tokenizer)) {
    files.tokenizer_json = read_text(tokenizer);
  }
  const json parsed =
      files.tokenizer_json.empty() ? json::object() : parse_object(files.tokenizer_json, tokenizer.string());
  const bool has_list = !files.tokenizer.from_tokenizer_json && is_file(folder / "vocab.txt");
  if (has_list || files.tokenizer_json.empty()) {
    files.vocab_source = (folder / "vocab.txt").string();
    files.vocab = read_text(files.vocab_source, "a vocabulary, a token a line");
  } else {
    files.vocab_source = tokenizer.string();
    files.vocab = vocab_of(parsed, files.vocab_source, files.config.vocab_size);
  }
  refuse_added_tokens(folder, files, parsed);
  return files;
}

void write_model_files(const fs::path& folder, const model_files& files) {
  const auto write = [&](const char* name, const json& object) {
    write_file_atomically(folder / name, object.dump(2, ' ', true, json::error_handler_t::replace) + "\n");
  };
  const bert_config& config = files.config;
  json out = files.config_json.empty() ? json::object() : parse_object(files.config_json, "config.json");
  // They describe another head, or weights that are stored in another way.
  for (const char* key : {"id2label", "label2id", "num_labels", "problem_type", "finetuning_task",
                          "quantization_config", "dtype", "_name_or_path"}) {
    out.erase(key);
  }
  out["architectures"] = {"BertForQuestionAnswering"};
  out["model_type"] = "bert";
  out["torch_dtype"] = "float32";
  out["hidden_size"] = config.hidden_size;
  out["num_hidden_layers"] = config.num_hidden_layers;
  out["num_attention_heads"] = config.num_attention_heads;
  out["intermediate_size"] = config.intermediate_size;
  out["vocab_size"] = config.vocab_size;
  out["max_position_embeddings"] = config.max_position_embeddings;
  out["type_vocab_size"] = config.type_vocab_size;
  out["pad_token_id"] = config.pad_token_id;
  out["hidden_act"] = config.hidden_act;
  out["layer_norm_eps"] = config.layer_norm_eps;
  out["hidden_dropout_prob"] = config.hidden_dropout_prob;
  out["attention_probs_dropout_prob"] = config.attention_probs_dropout_prob;
  out["initializer_range"] = config.initializer_range;
  write("config.json", out);

  const tokenizer_options& options = files.tokenizer;
  const json tokens = {{"cls_token", options.cls_token},
                       {"mask_token", options.mask_token},
                       {"pad_token", options.pad_token},
                       {"sep_token", options.sep_token},
                       {"unk_token", options.unk_token}};
  json settings = files.tokenizer_config_json.empty()
                      ? json{{"model_max_length", config.max_position_embeddings}}
                      : parse_object(files.tokenizer_config_json, "tokenizer_config.json");
  if (!settings.contains("tokenizer_class")) settings["tokenizer_class"] = "BertTokenizer";
  settings["do_lower_case"] = options.do_lower_case;
  settings["strip_accents"] = options.strip_accents ? json(*options.strip_accents) : json(nullptr);
  settings["tokenize_chinese_chars"] = options.tokenize_chinese_chars;
  for (const auto& [name, token] : tokens.items()) {
    if (!settings.contains(name)) settings[name] = token;
  }
  write("tokenizer_config.json", settings);
  write("special_tokens_map.json", tokens);
  write_file_atomically(folder / "vocab.txt", files.vocab);
  if (!files.tokenizer_json.empty()) write_file_atomically(folder / "tokenizer.json", files.tokenizer_json);
}

squad_paths find_squad(const std::string& dataset_name, const fs::path& folder, bool need_train,
                       bool need_validation) {
  if (dataset_name != "squad" && dataset_name != "squad_v2") {
    throw input_error("--dataset_name", "squad or squad_v2 (other data: --train_file, --validation_file)",
                      quote(dataset_name));
  }
  const std::string version = dataset_name == "squad" ? "v1.1" : "v2.0";
  const std::string get_it = "; to get it: curl -O https://rajpurkar.github.io/SQuAD-explorer/dataset/";
  const fs::path place = folder.empty() ? fs::path(environment("SQUAD_DIR")) : folder;
  if (place.empty()) {
    throw input_error("--dataset_name " + dataset_name,
                      "the folder with train-" + version + ".json and dev-" + version +
                          ".json in --dataset_dir or the environment variable SQUAD_DIR",
                      "neither" + get_it + "train-" + version + ".json");
  }
  if (!is_folder(place)) throw input_error(place.string(), "the folder with SQuAD's files", "no such folder");
  const auto find = [&](const std::string& name, bool needed) {
    const fs::path path = place / name;
    if (needed && !is_file(path))
      throw input_error(path.string(), "SQuAD's file", "no such file" + get_it + name);
    return path;
  };
  return {find("train-" + version + ".json", need_train), find("dev-" + version + ".json", need_validation)};
}

}  // namespace bert_qa
