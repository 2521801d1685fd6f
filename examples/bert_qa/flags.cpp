#include "flags.hpp"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <utility>

#include "embedded.hpp"
#include "files.hpp"
#include "input_error.hpp"
#include "json_input.hpp"

namespace bert_qa {
namespace {

constexpr std::int64_t many = 1'000'000'000;

/// A number as a person writes it: 3e-05 and not 0.000030.
std::string written(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

template <class Number>
bool read_number(const std::string& text, Number& value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end;
}

bool read_boolean(const std::string& text, bool& value) {
  static const std::map<std::string, bool> words = {{"true", true}, {"True", true},   {"1", true},
                                                    {"yes", true},  {"false", false}, {"False", false},
                                                    {"0", false},   {"no", false}};
  const auto found = words.find(text);
  if (found == words.end()) return false;
  value = found->second;
  return true;
}

/// Flags by group, aligned, each with its value and its default.
class help_formatter : public CLI::Formatter {
 public:
  help_formatter() { column_width(40); }

  std::string make_option_opts(const CLI::Option* option) const override {
    std::string text = option->get_type_name();
    if (!text.empty()) text.insert(0, 1, ' ');
    return text;
  }
  std::string make_option_desc(const CLI::Option* option) const override {
    std::string text = option->get_description();
    if (!option->get_default_str().empty()) text += " [" + option->get_default_str() + "]";
    return text;
  }
  std::string make_group(std::string group, bool, std::vector<const CLI::Option*> options) const override {
    std::string text = group + ":\n";
    for (const CLI::Option* option : options) text += make_option(option, false);
    return text;
  }
  std::string make_usage(const CLI::App*, std::string name) const override {
    return "Usage: " + name +
           " --model_name_or_path DIR --dataset_name squad --do_train --do_eval --output_dir OUT\n" +
           "       " + name + " FLAGS.json\n" + "       " + name + "\n\n" +
           "Without a model and data it trains a small BERT on questions that are compiled in.\n"
           "Learning rate, warm-up, epochs, batch size, windows and logging are its own unless given.\n\n";
  }
  std::string make_footer(const CLI::App*) const override {
    return "Booleans may be given alone or with true or false. Values in brackets are the defaults.\n";
  }
};

/// Declares the flags, once for parsing and once for --help. Every flag takes one value: see with_values.
class declaration {
 public:
  explicit declaration(flags& out) : app_("Fine-tunes BERT for question answering on the CPU.", "bert_qa") {
    app_.set_help_flag();
    app_.formatter(std::make_shared<help_formatter>());

    group_ = "Model and data";
    text("model_name_or_path", out.model_name_or_path, "DIR",
         "a Hugging Face folder, or a model's name in the local cache");
    text("dataset_name", out.dataset_name, "NAME", "squad or squad_v2, from --dataset_dir");
    path("dataset_dir", out.dataset_dir, "DIR", "where SQuAD's files are; else the variable SQUAD_DIR says");
    path("train_file", out.train_file, "FILE", "questions to train on, as SQuAD's JSON");
    path("validation_file", out.validation_file, "FILE", "questions to evaluate on");
    path("test_file", out.test_file, "FILE", "questions to answer");
    maybe_whole("max_train_samples", out.max_train_samples, 1, "train on the first N questions only");
    maybe_whole("max_eval_samples", out.max_eval_samples, 1, "evaluate on the first N questions only");
    maybe_whole("max_predict_samples", out.max_predict_samples, 1, "answer the first N questions only");

    group_ = "What to do";
    boolean("do_train", out.do_train, "fine-tune");
    boolean("do_eval", out.do_eval, "measure exact match and F1 on the validation file");
    boolean("do_predict", out.do_predict, "answer the questions of the test file");

    group_ = "Windows";
    whole("max_seq_length", out.max_seq_length, 8, 65535, "tokens in a window: question and context");
    whole("doc_stride", out.doc_stride, 0, 65535, "tokens that two windows of one context share");
    boolean("pad_to_max_length", out.pad_to_max_length,
            "train on windows padded to --max_seq_length; else packed without padding");

    group_ = "Training";
    whole("per_device_train_batch_size", out.per_device_train_batch_size, 1, 65536, "windows in a step");
    whole("per_device_eval_batch_size", out.per_device_eval_batch_size, 1, 65536,
          "windows in an evaluation step");
    whole("gradient_accumulation_steps", out.gradient_accumulation_steps, 1, 65536,
          "batches whose gradients are added up before the weights change");
    real("learning_rate", out.learning_rate, 0, 10, "at its highest");
    real("num_train_epochs", out.num_train_epochs, 1e-6, 1e6, "times that the data is gone through");
    maybe_whole("max_steps", out.max_steps, -1, "stop after N steps; overrides --num_train_epochs");
    choice("lr_scheduler_type", out.lr_scheduler_type,
           {{"linear", lr_schedule::linear},
            {"cosine", lr_schedule::cosine},
            {"constant", lr_schedule::constant},
            {"constant_with_warmup", lr_schedule::constant_with_warmup}},
           "linear, cosine, constant or constant_with_warmup");
    whole("warmup_steps", out.warmup_steps, 0, many, "steps of rising learning rate");
    real("warmup_ratio", out.warmup_ratio, 0, 1, "the same as a part of all steps");
    real("weight_decay", out.weight_decay, 0, 10, "not on biases and layer normalisations");
    real("adam_beta1", out.adam_beta1, 0, 1 - 1e-9, "AdamW: memory of the gradient");
    real("adam_beta2", out.adam_beta2, 0, 1 - 1e-9, "AdamW: memory of its square");
    real("adam_epsilon", out.adam_epsilon, 1e-30, 1, "AdamW: added to the divisor");
    real("max_grad_norm", out.max_grad_norm, 0, 1e9, "longer gradients are cut to this; 0: never");
    boolean("bf16", out.bf16, "matrix products in bf16, weights and sums in f32");
    boolean("fp16", out.fp16, "the same in fp16, with dynamic loss scaling");
    boolean("gradient_checkpointing", out.gradient_checkpointing,
            "compute activations again in backward: less memory, more time");
    boolean("group_by_length", out.group_by_length, "batches of windows of similar length");
    natural("seed", out.seed, "of weights, order and dropout");
    whole("threads", out.threads, 0, 4096, "0: one for each core");

    group_ = "Answers";
    boolean("int8", out.int8, "evaluate and predict with linear layers in int8");
    whole("n_best_size", out.n_best_size, 1, 10000, "answers in eval_nbest_predictions.json");
    whole("max_answer_length", out.max_answer_length, 1, 65535, "tokens in an answer");
    boolean("version_2_with_negative", out.version_2_with_negative, "some questions have no answer");
    real("null_score_diff_threshold", out.null_score_diff_threshold, -1e9, 1e9,
         "\"no answer\" must be better by more than this");

    group_ = "Output";
    path("output_dir", out.output_dir, "DIR", "for the model, the results and the checkpoints");
    boolean("overwrite_output_dir", out.overwrite_output_dir,
            "start anew where it is not empty: checkpoints in it are removed");
    whole("logging_steps", out.logging_steps, 1, many, "steps between two entries of the log");
    choice("save_strategy", out.save_strategy,
           {{"no", save_when::no}, {"steps", save_when::steps}, {"epoch", save_when::epoch}},
           "no, steps or epoch");
    whole("save_steps", out.save_steps, 1, many, "steps between two checkpoints");
    maybe_whole("save_total_limit", out.save_total_limit, 1, "keep only the N latest checkpoints");
    path("resume_from_checkpoint", out.resume_from_checkpoint, "DIR",
         "go on from there; unset: from the latest in --output_dir, if there is one");
    boolean("help", out.help, "print this");
    boolean("version", out.version, "print the version");

    group_ = "";  // accepted, not listed
    for (const char* name : {"use_ipex", "no_cuda", "use_cpu"}) boolean(name, ignored_, "");
  }

  bool is_known(const std::string& name) const { return kinds_.count(name) != 0; }
  bool is_boolean(const std::string& name) const { return kinds_.at(name).boolean; }

  void parse(const std::vector<std::pair<std::string, std::string>>& values) {
    for (const auto& [name, value] : values) app_.get_option("--" + name)->add_result(value);
    for (CLI::Option* option : app_.get_options()) {
      if (option->count() > 0) option->run_callback();
    }
  }

  std::string help() const {
    std::string text = app_.help();
    while (text.find("\n\n\n") != std::string::npos) text.erase(text.find("\n\n\n"), 1);
    return text;
  }

  std::string nearest(const std::string& name) const {
    std::string best;
    std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;
    for (const auto& [known, about] : kinds_) {
      // Part of a name is how people misremember the long ones.
      const bool part = name.size() >= 4 && known.find(name) != std::string::npos;
      const std::size_t distance = part ? 1 : edit_distance(name, known);
      if (about.listed && distance < best_distance) {
        best_distance = distance;
        best = known;
      }
    }
    return best;
  }

 private:
  struct kind {
    bool boolean, listed;
  };

  static std::size_t edit_distance(const std::string& a, const std::string& b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < a.size(); ++i) {
      std::size_t diagonal = std::exchange(row[0], i + 1);
      for (std::size_t j = 0; j < b.size(); ++j) {
        const std::size_t replaced = diagonal + (a[i] != b[j]);
        diagonal = row[j + 1];
        row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
      }
    }
    return row.back();
  }

  template <class Read>
  void add(const std::string& name, const std::string& type, const std::string& standard,
           const std::string& about, Read read, bool boolean = false) {
    app_.add_option_function<std::string>("--" + name, read, about)
        ->type_name(type)
        ->default_str(standard)
        ->group(group_);
    kinds_[name] = {boolean, !group_.empty()};
  }

  void text(const std::string& name, std::string& value, const char* type, const char* about) {
    add(name, type, "", about, [name, &value](const std::string& given) {
      if (given.empty()) throw input_error("--" + name, "a value", "an empty one");
      value = given;
    });
  }

  void path(const std::string& name, std::filesystem::path& value, const char* type, const char* about) {
    add(name, type, "", about, [name, &value](const std::string& given) {
      if (given.empty()) throw input_error("--" + name, "a path", "an empty one");
      value = given;
    });
  }

  void boolean(const std::string& name, bool& value, const char* about) {
    add(
        name, "", "", about,
        [name, &value](const std::string& given) {
          if (!read_boolean(given, value)) throw input_error("--" + name, "true or false", quote(given));
        },
        true);
  }

  static std::int64_t whole_of(const std::string& name, const std::string& given, std::int64_t smallest,
                               std::int64_t largest) {
    std::int64_t value = 0;
    if (read_number(given, value) && value >= smallest && value <= largest) return value;
    const std::string range = largest == many ? "a whole number of at least " + std::to_string(smallest)
                                              : "a whole number from " + std::to_string(smallest) + " to " +
                                                    std::to_string(largest);
    throw input_error("--" + name, range, quote(given));
  }

  void whole(const std::string& name, std::int64_t& value, std::int64_t smallest, std::int64_t largest,
             const char* about) {
    add(name, "N", std::to_string(value), about,
        [=, &value](const std::string& given) { value = whole_of(name, given, smallest, largest); });
  }

  /// With a smallest value of -1, Transformers' way to say "nothing", 0 and -1 are nothing.
  void maybe_whole(const std::string& name, std::optional<std::int64_t>& value, std::int64_t smallest,
                   const char* about) {
    add(name, "N", "", about, [=, &value](const std::string& given) {
      value = whole_of(name, given, smallest, many);
      if (*value <= 0) value.reset();
    });
  }

  void natural(const std::string& name, std::uint64_t& value, const char* about) {
    add(name, "N", std::to_string(value), about, [=, &value](const std::string& given) {
      if (!read_number(given, value))
        throw input_error("--" + name, "a whole number below 2^64", quote(given));
    });
  }

  void real(const std::string& name, double& value, double smallest, double largest, const char* about) {
    add(name, "X", written(value), about, [=, &value](const std::string& given) {
      double read = 0;
      if (!read_number(given, read) || !(read >= smallest && read <= largest)) {
        throw input_error("--" + name, "a number from " + written(smallest) + " to " + written(largest),
                          quote(given));
      }
      value = read;
    });
  }

  template <class Enum>
  void choice(const std::string& name, Enum& value, std::vector<std::pair<std::string, Enum>> choices,
              const std::string& about) {
    const auto standard = std::find_if(choices.begin(), choices.end(),
                                       [&](const auto& choice) { return choice.second == value; });
    add(name, "NAME", standard->first, about, [=, &value](const std::string& given) {
      for (const auto& [word, meaning] : choices) {
        if (word == given) {
          value = meaning;
          return;
        }
      }
      throw input_error("--" + name, about, quote(given));
    });
  }

  CLI::App app_;
  std::string group_;
  std::map<std::string, kind> kinds_;
  bool ignored_ = false;
};

using named_values = std::vector<std::pair<std::string, std::string>>;

void check_name(const declaration& known, const std::string& name, const named_values& before) {
  if (!known.is_known(name)) {
    const std::string nearest = known.nearest(name);
    throw input_error(
        "--" + name.substr(0, 80), "a flag that exists",
        nearest.empty() ? "none of that name; --help lists them" : "none; did you mean --" + nearest + "?");
  }
  for (const auto& [other, value] : before) {
    if (other == name) throw input_error("--" + name, "to be given once", "it twice");
  }
}

/// Gives each flag its one value. CLI11 cannot do this alone: it takes -1 for a flag, and a flag before a
/// boolean's `true` for a complete one.
named_values with_values(const declaration& known, std::span<const std::string> arguments) {
  named_values values;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i];
    if (name == "-h") name = "--help";
    if (name.rfind("--", 0) != 0 || name.size() == 2) {
      throw input_error("command line", "a flag that begins with --", quote(name));
    }
    const auto equals = name.find('=');
    std::optional<std::string> value;
    if (equals != std::string::npos) value = name.substr(equals + 1);
    name = name.substr(2, equals == std::string::npos ? equals : equals - 2);
    std::replace(name.begin(), name.end(), '-', '_');  // Transformers takes both
    check_name(known, name, values);
    bool unused = false;
    if (!value && known.is_boolean(name)) {
      value = i + 1 < arguments.size() && read_boolean(arguments[i + 1], unused) ? arguments[++i] : "true";
    }
    if (!value) {
      if (i + 1 == arguments.size()) throw input_error("--" + name, "a value", "the end of the command line");
      if (arguments[i + 1].rfind("--", 0) == 0)
        throw input_error("--" + name, "a value", quote(arguments[i + 1]));
      value = arguments[++i];
    }
    values.emplace_back(name, *value);
  }
  return values;
}

named_values from_json(const declaration& known, const std::string& path) {
  const nlohmann::json object = parse_json(read_file(path, "a JSON file of flags"), path);
  if (!object.is_object()) throw input_error(path, "a JSON object of flags", describe(object));
  named_values values;
  for (const auto& [name, value] : object.items()) {
    check_name(known, name, values);
    if (value.is_null()) continue;
    if (value.is_structured()) throw input_error("--" + name, "one value", describe(value));
    values.emplace_back(name, value.is_string() ? value.get<std::string>() : value.dump());
  }
  return values;
}

/// What trains the small BERT, in the place of run_qa's defaults: a flag that was given keeps its value.
void take_embedded_values(flags& out, const named_values& given) {
  const auto is_given = [&](const char* name) {
    return std::ranges::find(given, name, &named_values::value_type::first) != given.end();
  };
  const auto take = [&](const char* name, auto& value, auto own) {
    if (!is_given(name)) value = own;
  };
  take("learning_rate", out.learning_rate, embedded_set::learning_rate);
  take("num_train_epochs", out.num_train_epochs, embedded_set::epochs);
  take("per_device_train_batch_size", out.per_device_train_batch_size, embedded_set::batch_size);
  take("max_seq_length", out.max_seq_length, embedded_set::max_seq_length);
  // A shorter window than its own is no reason to complain about a stride that nobody gave.
  take("doc_stride", out.doc_stride,
       std::min<std::int64_t>(embedded_set::doc_stride, out.max_seq_length / 3));
  if (!is_given("warmup_steps")) take("warmup_ratio", out.warmup_ratio, embedded_set::warmup_ratio);
  take("logging_steps", out.logging_steps, embedded_set::logging_steps);
}

void check_together(const flags& given) {
  if (given.bf16 && given.fp16) throw input_error("--bf16, --fp16", "one of them", "both");
  constexpr std::int64_t special_tokens = 3;  // [CLS] question [SEP] context [SEP]
  if (given.doc_stride >= given.max_seq_length - special_tokens) {
    throw input_error("--doc_stride",
                      "less than the window, --max_seq_length " + std::to_string(given.max_seq_length) +
                          " less " + std::to_string(special_tokens) + " special tokens",
                      std::to_string(given.doc_stride));
  }
  if (given.embedded()) {
    if (given.do_predict) throw input_error("--do_predict", "--test_file with the questions", "none");
    return;
  }
  for (const auto& [name, file] : {std::pair{"--train_file", &given.train_file},
                                   std::pair{"--validation_file", &given.validation_file}}) {
    if (!given.dataset_name.empty() && !file->empty()) {
      throw input_error(name, "no file beside --dataset_name " + given.dataset_name, file->string());
    }
  }
  if (given.model_name_or_path.empty()) {
    throw input_error("--model_name_or_path", "a Hugging Face folder or a name in the local cache", "none");
  }
  if (!given.do_train && !given.do_eval && !given.do_predict) {
    throw input_error("command line", "--do_train, --do_eval or --do_predict", "none of them");
  }
  if (given.do_train && given.train_file.empty() && given.dataset_name.empty()) {
    throw input_error("--do_train", "--train_file or --dataset_name", "neither");
  }
  if (given.do_eval && given.validation_file.empty() && given.dataset_name.empty()) {
    throw input_error("--do_eval", "--validation_file or --dataset_name", "neither");
  }
  if (given.do_predict && given.test_file.empty()) {
    throw input_error("--do_predict", "--test_file with the questions", "none");
  }
  if (given.output_dir.empty()) throw input_error("--output_dir", "a folder for the results", "none");
}

}  // namespace

flags parse_flags(std::span<const std::string> arguments) {
  flags out;
  declaration known(out);
  const auto read = [&](const named_values& values) {
    known.parse(values);
    if (out.help || out.version) return;
    if (out.embedded()) take_embedded_values(out, values);
    check_together(out);
    std::string unneeded;
    for (const char* name : {"use_ipex", "no_cuda", "use_cpu"}) {
      for (const auto& [given, value] : values) {
        if (given == name) unneeded += (unneeded.empty() ? "--" : ", --") + given;
      }
    }
    if (!unneeded.empty()) {
      out.notes.push_back(unneeded + ": nothing to choose, bert_qa runs on the CPU with its own kernels");
    }
  };
  if (arguments.size() == 1 && arguments[0].ends_with(".json") && arguments[0].front() != '-') {
    try {
      read(from_json(known, arguments[0]));
    } catch (const input_error& error) {
      const std::string text = error.what();
      throw input_error(text.rfind(arguments[0], 0) == 0 ? text : arguments[0] + ": " + text);
    }
  } else {
    read(with_values(known, arguments));
  }
  if (out.embedded() && !out.do_train && !out.do_eval) out.do_train = out.do_eval = true;
  return out;
}

std::string help_text() {
  flags unused;
  return declaration(unused).help();
}

}  // namespace bert_qa
