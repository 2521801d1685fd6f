#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "tokenizer.hpp"

namespace bert_qa {

enum class hidden_activation { gelu, gelu_tanh, relu };

/// config.json of a BERT; the defaults are BertConfig's.
struct bert_config {
  std::int64_t hidden_size = 768;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t intermediate_size = 3072;
  std::int64_t vocab_size = 30522;
  std::int64_t max_position_embeddings = 512;
  std::int64_t type_vocab_size = 2;
  std::int64_t pad_token_id = 0;
  std::string hidden_act = "gelu";
  double layer_norm_eps = 1e-12;
  double hidden_dropout_prob = 0.1;
  double attention_probs_dropout_prob = 0.1;
  double initializer_range = 0.02;

  std::int64_t head_size() const { return hidden_size / num_attention_heads; }
  hidden_activation activation() const;
};

/// Everything in a model's folder but the weights.
struct model_files {
  bert_config config;
  tokenizer_options tokenizer;  ///< BertTokenizer's defaults where there is no tokenizer_config.json
  /// vocab.txt, a token a line; the same out of tokenizer.json where that is missing or does not count.
  std::string vocab;
  std::string vocab_source;  ///< the file that it is from, for errors
  /// As they were read, empty where there was none: what we do not know is kept when they are written.
  std::string config_json, tokenizer_config_json, tokenizer_json;
};

/// `source` names the text in errors. The parts that give a model its shape must be there; the others have
/// BertConfig's defaults. Throws input_error for another architecture or a value that is out of range.
bert_config parse_bert_config(std::string_view json, const std::string& source);

/// A folder, or a name in the local Hugging Face cache (HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub).
/// Nothing is downloaded: input_error says how to get what is missing.
std::filesystem::path find_model(const std::string& name_or_path);

model_files read_model_files(const std::filesystem::path& folder);
/// model.safetensors in the folder; input_error says how to make it from what is there instead.
std::filesystem::path find_weights(const std::filesystem::path& folder);

/// config.json for BertForQuestionAnswering, vocab.txt, tokenizer_config.json, special_tokens_map.json, and
/// tokenizer.json where the source had one; with model.safetensors beside them Transformers opens the folder.
void write_model_files(const std::filesystem::path& folder, const model_files& files);

struct squad_paths {
  std::filesystem::path train, validation;
};
/// train-v1.1.json and dev-v1.1.json for "squad", v2.0 for "squad_v2", in `folder` or, where that is empty,
/// in the folder that the environment variable SQUAD_DIR names. Only what is needed must be there.
squad_paths find_squad(const std::string& dataset_name, const std::filesystem::path& folder, bool need_train,
                       bool need_validation);

}  // namespace bert_qa
