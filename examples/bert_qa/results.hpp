#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace bert_qa {

/// What a run measured, in the keys and the rounding of Transformers.
struct train_results {
  double epoch = 0;
  double loss = 0;  ///< mean over all steps; NaN: null
  double total_flos = 0;
  std::int64_t samples = 0;  ///< windows in the training set
  // Without what came before a checkpoint; without steps no times are written:
  double seconds = 0;
  std::int64_t samples_seen = 0;  ///< in all epochs
  std::int64_t steps = 0;
};

struct eval_results {
  double epoch = 0;  ///< 0: nothing was trained, and none is written
  double seconds = 0;
  std::int64_t samples = 0;  ///< windows
  std::int64_t steps = 0;
  nlohmann::ordered_json scores;  ///< exact_match, f1, ...: the metric's, without prefix; null: none
};

nlohmann::ordered_json to_json(const train_results& results);
/// The keys of a split, "eval" or "predict". Every score of "eval" twice, as `f1` and as `eval_f1`: older and
/// newer versions of run_qa.py differ, and what reads their files asks for one or the other. all_results.json
/// has one place for `f1`, so that of "predict" is `predict_f1` only.
nlohmann::ordered_json to_json(const eval_results& results, const std::string& split = "eval");

/// Writes SPLIT_results.json ("train", "eval", "predict") and puts the same keys into all_results.json, which
/// keeps those of other splits and loses what else begins with `SPLIT_`. JSON as all files of results: indent
/// 4, ASCII, sorted keys.
void save_results(const std::filesystem::path& folder, std::string_view split,
                  const nlohmann::ordered_json& results);
/// For a run that was killed after its last step: what its checkpoint knows, without times, becomes
/// train_results.json unless that has it already. Returns it, with the times if they are there.
nlohmann::ordered_json complete_train_results(const std::filesystem::path& folder,
                                              const train_results& known);
/// What save_results would add to: an empty object where there is no file. input_error for anything but a
/// JSON object, so that hours of training do not end with it.
nlohmann::json read_all_results(const std::filesystem::path& folder);

/// For a person: one aligned line a key, under ***** SPLIT metrics *****.
std::string format_results(std::string_view split, const nlohmann::ordered_json& results);

/// eval_predictions.json and the like: indent 4, ASCII, the order kept.
void save_json(const std::filesystem::path& path, const nlohmann::ordered_json& value);

/// trainer_state.json.
struct trainer_state {
  double epoch = 0;
  std::int64_t global_step = 0;
  std::int64_t max_steps = 0;
  std::int64_t num_train_epochs = 0;  ///< that are begun: a part counts as one
  std::int64_t train_batch_size = 0;
  std::int64_t logging_steps = 500, eval_steps = 500, save_steps = 500;
  double total_flos = 0;
  std::vector<nlohmann::json> log_history;  ///< keys sorted: read back and written again it is the same text

  void log_step(double loss, double gradient_norm, double learning_rate);  ///< at the present epoch and step
  void log_results(nlohmann::ordered_json results);  ///< train or eval, at the present step
};

nlohmann::ordered_json to_json(const trainer_state& state);
/// The other way, for a run that goes on; throws input_error.
trainer_state parse_trainer_state(std::string_view json, const std::string& source);

}  // namespace bert_qa
