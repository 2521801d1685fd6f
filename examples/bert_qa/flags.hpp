#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace bert_qa {

enum class lr_schedule { linear, cosine, constant, constant_with_warmup };
enum class save_when { no, steps, epoch };

/// The command line, with the names and the defaults of Transformers' run_qa.py. Paths are empty, optionals
/// have no value, where nothing was said.
struct flags {
  std::string model_name_or_path;

  std::string dataset_name;  ///< squad or squad_v2
  std::filesystem::path dataset_dir, train_file, validation_file, test_file;
  std::optional<std::int64_t> max_train_samples, max_eval_samples, max_predict_samples;

  bool do_train = false, do_eval = false, do_predict = false;

  std::int64_t max_seq_length = 384;
  std::int64_t doc_stride = 128;  ///< tokens that two windows of one context share
  /// run_qa.py: true, with padding in the softmax of the loss. false: no padding, and less work.
  bool pad_to_max_length = false;

  std::int64_t per_device_train_batch_size = 8;
  std::int64_t per_device_eval_batch_size = 8;
  std::int64_t gradient_accumulation_steps = 1;
  double learning_rate = 5e-5;
  double num_train_epochs = 3;
  std::optional<std::int64_t> max_steps;  ///< instead of num_train_epochs
  lr_schedule lr_scheduler_type = lr_schedule::linear;
  std::int64_t warmup_steps = 0;  ///< above 0: instead of warmup_ratio
  double warmup_ratio = 0;
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1;  ///< 0: gradients are not clipped
  bool bf16 = false, fp16 = false;
  bool int8 = false;  ///< linear layers of evaluation and prediction
  bool gradient_checkpointing = false;
  bool group_by_length = false;
  std::uint64_t seed = 42;
  std::int64_t threads = 0;  ///< 0: as many as there are cores

  std::int64_t n_best_size = 20;
  std::int64_t max_answer_length = 30;
  bool version_2_with_negative = false;
  double null_score_diff_threshold = 0;

  std::filesystem::path output_dir;
  bool overwrite_output_dir = false;
  std::filesystem::path resume_from_checkpoint;
  std::int64_t logging_steps = 500;
  std::int64_t save_steps = 500;
  save_when save_strategy = save_when::steps;
  std::optional<std::int64_t> save_total_limit;

  bool help = false, version = false;  ///< with them nothing else is checked
  std::vector<std::string> notes;      ///< lines for the user about flags that change nothing here

  /// No model and no data: the small BERT and the questions that are compiled in.
  bool embedded() const {
    return model_name_or_path.empty() && dataset_name.empty() && train_file.empty() &&
           validation_file.empty() && test_file.empty();
  }
};

/// `arguments` without the program's name: flags as `--name value` or `--name=value`, for booleans also
/// `--name` alone; or one JSON file that holds them as an object. Throws input_error, `--name: expected X,
/// found Y`, for unknown flags with the nearest that exists. Without a model and data, what is not given has
/// the embedded set's value where that has one.
flags parse_flags(std::span<const std::string> arguments);

/// All flags, by group, with their defaults.
std::string help_text();

}  // namespace bert_qa
