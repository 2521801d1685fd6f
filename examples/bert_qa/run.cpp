#include "run.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <einkorn/einkorn.hpp>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "answers.hpp"
#include "bert.hpp"
#include "checkpoint.hpp"
#include "embedded.hpp"
#include "features.hpp"
#include "files.hpp"
#include "input_error.hpp"
#include "memory.hpp"
#include "metric.hpp"
#include "model_folder.hpp"
#include "parameters.hpp"
#include "predict.hpp"
#include "progress.hpp"
#include "results.hpp"
#include "squad.hpp"
#include "threads.hpp"
#include "tokenizer.hpp"
#include "trainer.hpp"

namespace bert_qa {
namespace fs = std::filesystem;
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

std::string number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// The questions of one split, and their windows.
struct question_set {
  std::vector<example> examples;
  std::vector<feature> features;
};

question_set read_questions(std::string_view json, const std::string& name, bool answers_required,
                            std::optional<std::int64_t> most, const tokenizer& words,
                            const feature_options& options) {
  question_set set;
  set.examples = parse_squad(json, name, answers_required);
  if (most && static_cast<std::int64_t>(set.examples.size()) > *most)
    set.examples.resize(static_cast<std::size_t>(*most));
  set.features = make_features(set.examples, words, options);
  return set;
}

question_set read_questions(const fs::path& file, bool answers_required, std::optional<std::int64_t> most,
                            const tokenizer& words, const feature_options& options) {
  return read_questions(read_file(file, "questions in SQuAD's JSON"), file.string(), answers_required, most,
                        words, options);
}

/// The folder for the results: empty, to be overwritten, or with a checkpoint to go on from. `model`: the
/// folder that the model is from, if it is from one.
void check_output(flags& given, const fs::path& model) {
  if (given.do_train && !given.resume_from_checkpoint.empty())
    read_file(given.resume_from_checkpoint / "trainer_state.json", "a checkpoint's progress");
  if (given.output_dir.empty()) return;
  read_all_results(given.output_dir);
  std::error_code problem;
  if (given.do_train && !given.overwrite_output_dir && given.resume_from_checkpoint.empty() &&
      fs::is_directory(given.output_dir, problem) && !is_unused(given.output_dir)) {
    const std::optional<fs::path> latest = latest_checkpoint(given.output_dir);
    if (!latest)
      throw input_error(given.output_dir.string(),
                        "an empty folder, one with a checkpoint, or --overwrite_output_dir", "files in it");
    given.resume_from_checkpoint = *latest;
  }
  if (given.do_train && given.resume_from_checkpoint.empty() && !model.empty() &&
      fs::is_directory(given.output_dir, problem)) {
    if (const std::optional<fs::path> checkpoint = removed_with(given.output_dir, model))
      throw input_error("--overwrite_output_dir", "a model that is not in a checkpoint which is removed",
                        "--model_name_or_path " + model.string() + " in " + checkpoint->string());
  }
  make_writable_folder(given.output_dir);
}

class session {
 public:
  explicit session(flags given) : given_(std::move(given)) {}

  void run() {
    count_allocations();
    for (const std::string& note : given_.notes) say(note);
    use_threads(given_.threads);
    const einkorn::isa level = einkorn::active_isa();
    load();
    say(std::string("einkorn ") + EINKORN_VERSION_STRING + ", ISA level " + einkorn::name(level) + ", " +
        std::to_string(einkorn::default_executor().threads) + " threads, " + einkorn::name(type()) + ", " +
        number(static_cast<double>(table_->count()) * 1e-6, "%.1f") + " million parameters");
    if (given_.do_train) train();
    if (given_.int8) model_->use_int8();
    if (given_.do_eval) evaluate("eval", validation_);
    if (given_.do_predict) evaluate("predict", test_);
    if (!given_.output_dir.empty() && given_.do_train)
      save_json(given_.output_dir / "trainer_state.json", to_json(state_));
    summary_["peak_memory_mib"] = peak_memory() >> 20;
    say("summary " + summary_.dump());
  }

 private:
  einkorn::dtype type() const {
    return given_.bf16 ? einkorn::dtype::bf16 : given_.fp16 ? einkorn::dtype::fp16 : einkorn::dtype::f32;
  }

  std::vector<memory_use> memory() const {
    std::vector<memory_use> uses = table_->memory();
    const std::vector<memory_use> model = model_->memory();
    uses.insert(uses.end(), model.begin(), model.end());
    uses.push_back({"scratch of the kernels", allocated_bytes() - total_bytes(uses)});
    return uses;
  }

  /// Everything that is read, and every check, before anything is written.
  void load() {
    if (given_.embedded()) {
      const embedded_set set = make_embedded_set();
      files_.config_json = set.config_json;
      files_.config = parse_bert_config(set.config_json, "the embedded config.json");
      files_.vocab = set.vocabulary;
      make_parameters();
      table_->initialise(given_.seed);
      const tokenizer words(files_.vocab, files_.tokenizer, "the embedded vocabulary");
      const feature_options options = checked_options();
      if (given_.do_train)
        train_ = read_questions(set.train_json, "the embedded training set", true, given_.max_train_samples,
                                words, options);
      validation_ = read_questions(set.heldout_json, "the embedded held-out set", false,
                                   given_.max_eval_samples, words, options);
      check_output(given_, {});
      return;
    }
    fs::path train = given_.train_file, validation = given_.validation_file;
    if (!given_.dataset_name.empty()) {
      const squad_paths found =
          find_squad(given_.dataset_name, given_.dataset_dir, given_.do_train, given_.do_eval);
      train = found.train;
      validation = found.validation;
    }
    const fs::path folder = find_model(given_.model_name_or_path);
    files_ = read_model_files(folder);
    const tokenizer words(files_.vocab, files_.tokenizer, files_.vocab_source);
    if (words.size() > files_.config.vocab_size)
      throw input_error(files_.vocab_source,
                        "at most the " + std::to_string(files_.config.vocab_size) + " tokens of config.json",
                        std::to_string(words.size()));
    const feature_options options = checked_options();
    const fs::path weights = find_weights(folder);
    {
      const mapped_file bytes(weights, "the model's weights");
      const safetensors tensors(bytes.bytes(), weights.string());
      parameter_table::check(files_.config, tensors, weights.string());
      make_parameters();
      for (const std::string& note : table_->load(tensors, weights.string(), given_.seed)) say(note);
    }
    if (given_.do_train) train_ = read_questions(train, true, given_.max_train_samples, words, options);
    if (given_.do_eval) {
      validation_ = read_questions(validation, false, given_.max_eval_samples, words, options);
      if (!given_.version_2_with_negative) require_answers(validation_.examples, validation.string());
    }
    if (given_.do_predict)
      test_ = read_questions(given_.test_file, false, given_.max_predict_samples, words, options);
    check_output(given_, folder);
  }

  /// Windows are no longer than the model's positions, and, as run_qa.py has it, than the tokenizer allows.
  feature_options checked_options() {
    const auto limit = [&](std::int64_t most, const char* what) {
      if (given_.max_seq_length <= most) return;
      say("--max_seq_length: " + std::to_string(given_.max_seq_length) + " is more than " + what + "; " +
          std::to_string(most) + " are used");
      given_.max_seq_length = most;
    };
    limit(files_.config.max_position_embeddings, "the model has positions");
    if (files_.tokenizer.max_length)
      limit(*files_.tokenizer.max_length, "model_max_length in tokenizer_config.json");
    const feature_options options{static_cast<std::int32_t>(given_.max_seq_length),
                                  static_cast<std::int32_t>(given_.doc_stride)};
    check_feature_options(options);
    return options;
  }

  void make_parameters() {
    using purpose = parameter_table::purpose;
    table_ = std::make_unique<parameter_table>(files_.config, type(),
                                               given_.do_train ? purpose::training : purpose::inference);
    model_ = make_bert(files_.config, *table_, {.gradient_checkpointing = given_.gradient_checkpointing});
  }

  training_options options() const {
    return {.batch_size = given_.per_device_train_batch_size,
            .accumulation = given_.gradient_accumulation_steps,
            .epochs = given_.num_train_epochs,
            .max_steps = given_.max_steps.value_or(0),
            .learning_rate = given_.learning_rate,
            .schedule = given_.lr_scheduler_type,
            .warmup_steps = given_.warmup_steps,
            .warmup_ratio = given_.warmup_ratio,
            .weight_decay = given_.weight_decay,
            .beta1 = given_.adam_beta1,
            .beta2 = given_.adam_beta2,
            .epsilon = given_.adam_epsilon,
            .max_grad_norm = given_.max_grad_norm,
            .seed = given_.seed,
            .pad = given_.pad_to_max_length ? padding::max_length : padding::none,
            .max_length = static_cast<std::int32_t>(given_.max_seq_length),
            .group_by_length = given_.group_by_length};
  }

  void train() {
    trainer training(files_.config, *table_, *model_, train_.features, options());
    const double peak = measure_gemm_peak(type());
    say("training on " + std::to_string(train_.examples.size()) + " questions, " +
        std::to_string(train_.features.size()) + " windows, " + std::to_string(training.total_steps()) +
        " steps; 100 % MFU is " + number(peak * 1e-9, "%.0f") + " GFLOP/s, measured now in a " +
        einkorn::name(type()) + " matrix product");
    if (!given_.resume_from_checkpoint.empty()) {
      state_ = load_checkpoint(given_.resume_from_checkpoint, training);
      say("going on from " + given_.resume_from_checkpoint.string() + ", step " +
          std::to_string(state_.global_step) + (training.finished() ? ": nothing is left to train" : ""));
      if (!given_.output_dir.empty()) tidy_checkpoints(given_.output_dir, state_.global_step, {});
    }
    state_.max_steps = training.total_steps();
    state_.num_train_epochs = training.epochs();
    state_.train_batch_size = given_.per_device_train_batch_size;
    state_.logging_steps = given_.logging_steps;
    state_.save_steps = given_.save_steps;
    train_results results;
    results.samples = static_cast<std::int64_t>(train_.features.size());
    const double flop_before = results.total_flos = state_.total_flos;
    if (training.finished()) {
      results.epoch = state_.epoch;
      results.loss = training.mean_loss();
      end_trained(results);
      return;
    }

    std::vector<double> losses, seconds;  // losses: that are finite
    model_->times = {};
    const double begin = now();
    {
      progress bar("training", training.total_steps(), state_.global_step);
      while (!training.finished()) {
        const step_report step = training.step();
        if (seconds.empty()) {
          const std::string text = memory_text(memory(), peak_memory());
          bar.print(std::string_view(text).substr(0, text.size() - 1));
          summary_["planned_memory_mib"] = total_bytes(memory()) >> 20;
          // So that a later run does not take an earlier run's for this one's; not before it is seen that
          // this one can train.
          if (given_.resume_from_checkpoint.empty() && !given_.output_dir.empty())
            remove_checkpoints(given_.output_dir);
        }
        if (std::isfinite(step.loss)) losses.push_back(step.loss);
        seconds.push_back(step.seconds);
        results.samples_seen += step.samples;
        results.total_flos += step.flop;
        state_.epoch = training.epoch();
        state_.global_step = step.step;
        state_.total_flos = results.total_flos;
        bar.update(step.step, {.loss = step.loss,
                               .learning_rate = step.learning_rate,
                               .samples_per_second = static_cast<double>(step.samples) / step.seconds,
                               .utilization = step.flop / step.seconds / peak});
        if (step.skipped)
          bar.print("step " + std::to_string(step.step) + " skipped: the gradients are not finite" +
                    (given_.fp16 ? " at loss scale " + number(step.loss_scale, "%g") + "; it is now " +
                                       number(training.loss_scale(), "%g")
                                 : ""));
        if (step.step % given_.logging_steps == 0) {
          const double mean = training.take_recent_loss();
          state_.log_step(mean, step.gradient_norm, step.learning_rate);
          bar.print("step " + std::to_string(step.step) + "  loss " + number(mean, "%.4f") +
                    "  gradient norm " + number(step.gradient_norm, "%.2f") + "  lr " +
                    number(step.learning_rate, "%.3g"));
        }
        if (save_now(training, step.step))
          save_checkpoint(given_.output_dir, files_, *table_, training, state_, given_.save_total_limit);
      }
    }
    results.seconds = now() - begin;
    results.steps = static_cast<std::int64_t>(seconds.size());
    results.epoch = state_.epoch;
    results.loss = training.mean_loss();
    finish_training(results, losses, seconds, training, (results.total_flos - flop_before) / results.seconds,
                    peak);
  }

  bool save_now(const trainer& training, std::int64_t step) const {
    if (given_.output_dir.empty() || given_.save_strategy == save_when::no) return false;
    if (training.finished()) return true;  // as Trainer, wherever the last step falls
    if (given_.save_strategy == save_when::steps) return step % given_.save_steps == 0;
    return step % training.steps_per_epoch() == 0;
  }

  void finish_training(const train_results& results, const std::vector<double>& losses,
                       std::vector<double> seconds, const trainer& training, double flops, double peak) {
    const auto steps = static_cast<double>(seconds.size());
    // The first step packs, touches fresh memory and warms the caches up.
    if (seconds.size() > 1) seconds.erase(seconds.begin());
    std::ranges::sort(seconds);
    const std::size_t few = std::min<std::size_t>(losses.size(), 10);
    double last = few == 0 ? std::numeric_limits<double>::quiet_NaN() : 0;
    for (std::size_t i = losses.size() - few; i < losses.size(); ++i)
      last += losses[i] / static_cast<double>(few);
    nlohmann::ordered_json out = to_json(results);
    out["isa"] = einkorn::name(einkorn::active_isa());
    out["dtype"] = einkorn::name(type());
    out["threads"] = einkorn::default_executor().threads;
    out["first_loss"] = losses.empty() ? last : losses.front();
    out["last_loss"] = last;
    out["step_seconds_median"] = seconds[seconds.size() / 2];
    out["step_seconds_best"] = seconds.front();
    out["mfu"] = flops / peak;
    out["peak_gflops"] = peak * 1e-9;
    out["skipped_steps"] = training.skipped_steps();
    if (given_.fp16) out["loss_scale"] = training.loss_scale();
    for (std::size_t i = 0; i < phase_names.size(); ++i)
      out["seconds_per_step"][phase_names[i]] = model_->times[i] / steps;
    for (const char* key : {"isa", "dtype", "threads", "train_loss", "first_loss", "last_loss",
                            "train_runtime", "train_samples_per_second", "step_seconds_median",
                            "step_seconds_best", "mfu", "skipped_steps", "loss_scale"})
      if (out.contains(key)) summary_[key] = out[key];
    nlohmann::ordered_json shown = out;
    shown.erase("seconds_per_step");
    say(format_results("train", shown));
    state_.log_results(to_json(results));
    save_trained();
    if (!given_.output_dir.empty()) save_results(given_.output_dir, "train", out);
  }

  /// After a checkpoint of the last step: what a run that was killed there had still to write.
  void end_trained(const train_results& known) {
    if (given_.output_dir.empty()) return;
    tidy_checkpoints(given_.output_dir, state_.global_step, given_.save_total_limit);
    state_.log_results(complete_train_results(given_.output_dir, known));
    save_trained();
  }

  void save_trained() const {
    if (given_.output_dir.empty()) return;
    save_model(given_.output_dir, files_, *table_);
    save_json(given_.output_dir / "trainer_state.json", to_json(state_));
  }

  /// Whether questions are labelled: by SQuAD v2's rule, some may be without an answer.
  bool has_answers(std::span<const example> examples) const {
    const auto answered = [](const example& e) { return !e.answers.empty(); };
    return given_.version_2_with_negative ? std::ranges::any_of(examples, answered)
                                          : std::ranges::all_of(examples, answered);
  }

  void evaluate(const std::string& split, const question_set& set) {
    const double begin = now();
    predictions logits;
    {
      const auto batch = given_.per_device_eval_batch_size;
      progress bar(split == "eval" ? "evaluating" : "predicting",
                   (static_cast<std::int64_t>(set.features.size()) + batch - 1) / batch);
      logits =
          predict(*model_, set.features, batch, [&](std::int64_t done, std::int64_t) { bar.update(done); });
    }
    const answer_set answers =
        find_answers(set.examples, set.features, logits.features,
                     {.n_best_size = static_cast<std::int32_t>(given_.n_best_size),
                      .max_answer_length = static_cast<std::int32_t>(given_.max_answer_length),
                      .version_2_with_negative = given_.version_2_with_negative,
                      .null_score_diff_threshold = given_.null_score_diff_threshold});
    eval_results results{.epoch = state_.epoch,
                         .seconds = now() - begin,
                         .samples = static_cast<std::int64_t>(set.features.size()),
                         .steps = logits.steps,
                         .scores = {}};
    if (!given_.output_dir.empty()) {
      save_json(given_.output_dir / (split + "_predictions.json"), answers.predictions);
      save_json(given_.output_dir / (split + "_nbest_predictions.json"), answers.nbest);
      if (given_.version_2_with_negative)
        save_json(given_.output_dir / (split + "_null_odds.json"), answers.null_odds);
    }
    if (split == "eval" || has_answers(set.examples))
      results.scores = given_.version_2_with_negative ? to_json(score_squad_v2(set.examples, answers.texts))
                                                      : to_json(score_squad(set.examples, answers.texts));
    const nlohmann::ordered_json out = to_json(results, split);
    if (given_.int8) summary_["eval_dtype"] = "int8";
    for (const char* key :
         {"exact_match", "f1", "exact", "eval_samples", "eval_runtime", "predict_exact_match", "predict_f1",
          "predict_exact", "predict_samples", "predict_runtime"})
      if (out.contains(key)) summary_[key] = out[key];
    say(format_results(split, out));
    if (!given_.output_dir.empty()) save_results(given_.output_dir, split, out);
    if (split != "eval") return;
    state_.log_results(out);
    if (given_.embedded()) show_answer(set, answers);
  }

  /// One question and what the model says to it.
  void show_answer(const question_set& set, const answer_set& answers) {
    const std::size_t i = set.examples.size() / 2;
    const example& e = set.examples[i];
    say("context:  " + e.context);
    say("question: " + e.question);
    say("answer:   " + answers.texts[i] +
        (e.answers.empty() ? "" : "   (expected: " + e.answers[0].text + ")"));
    summary_["question"] = e.question;
    summary_["answer"] = answers.texts[i];
    if (!e.answers.empty()) summary_["expected"] = e.answers[0].text;
  }

  flags given_;
  model_files files_;
  std::unique_ptr<parameter_table> table_;
  std::unique_ptr<bert> model_;
  question_set train_, validation_, test_;
  trainer_state state_;
  nlohmann::ordered_json summary_;
};

}  // namespace

void run(flags given) { session(std::move(given)).run(); }

}  // namespace bert_qa
