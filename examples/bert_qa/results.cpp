#include "results.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <utility>

#include "files.hpp"
#include "input_error.hpp"
#include "json_input.hpp"

namespace bert_qa {
namespace fs = std::filesystem;
namespace {

constexpr const char* all_results = "all_results.json";

double rounded(double value, int digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(value * scale) / scale;
}

std::string text_of(const nlohmann::ordered_json& value) {
  // ASCII like Python's json; bytes that are no UTF-8 cannot stop a run that has taken hours.
  return value.dump(4, ' ', true, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void add_speed(nlohmann::ordered_json& out, const std::string& split, double seconds, std::int64_t samples,
               std::int64_t steps) {
  out[split + "_runtime"] = rounded(seconds, 4);
  if (seconds <= 0) return;
  out[split + "_samples_per_second"] = rounded(static_cast<double>(samples) / seconds, 3);
  out[split + "_steps_per_second"] = rounded(static_cast<double>(steps) / seconds, 3);
}

std::string shown_value(const std::string& key, const nlohmann::ordered_json& value) {
  std::array<char, 64> text{};
  if (key.ends_with("_runtime") && value.is_number()) {
    const double seconds = value.get<double>();
    const auto whole = static_cast<long long>(seconds);
    std::snprintf(text.data(), text.size(), "%lld:%02lld:%05.2f", whole / 3600, whole / 60 % 60,
                  seconds - static_cast<double>(whole / 60 * 60));
    return text.data();
  }
  if (key == "total_flos" && value.is_number()) {
    std::snprintf(text.data(), text.size(), "%.4g TFLOP", value.get<double>() * 1e-12);
    return text.data();
  }
  if (value.is_number_float()) {
    std::snprintf(text.data(), text.size(), "%.4f", value.get<double>());
    return text.data();
  }
  return value.is_string() ? value.get<std::string>() : value.dump();
}

/// Of a file that is missing: an empty one.
nlohmann::json object_in(const fs::path& path) {
  if (std::error_code ignored; !fs::exists(path, ignored)) return nlohmann::json::object();
  nlohmann::json object = parse_json(read_file(path), path.string());
  require_kind(object, json_kind::object, {path.string(), ""});
  return object;
}

}  // namespace

nlohmann::ordered_json to_json(const train_results& results) {
  nlohmann::ordered_json out;
  out["epoch"] = rounded(results.epoch, 4);
  out["total_flos"] = results.total_flos;
  out["train_loss"] = results.loss;
  if (results.steps > 0) add_speed(out, "train", results.seconds, results.samples_seen, results.steps);
  out["train_samples"] = results.samples;
  return out;
}

nlohmann::ordered_json to_json(const eval_results& results, const std::string& split) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  if (results.epoch > 0) out["epoch"] = rounded(results.epoch, 4);
  for (const auto& [name, value] : results.scores.items()) {
    if (split == "eval") out[name] = value;
    out[split + "_" + name] = value;
  }
  add_speed(out, split, results.seconds, results.samples, results.steps);
  out[split + "_samples"] = results.samples;
  return out;
}

nlohmann::json read_all_results(const fs::path& folder) { return object_in(folder / all_results); }

void save_results(const fs::path& folder, std::string_view split, const nlohmann::ordered_json& results) {
  const nlohmann::json sorted = results;
  nlohmann::json merged = read_all_results(folder);
  const std::string own = std::string(split) + "_";
  for (auto entry = merged.begin(); entry != merged.end();)
    entry = entry.key().starts_with(own) ? merged.erase(entry) : std::next(entry);
  merged.update(sorted);
  write_file_atomically(folder / (std::string(split) + "_results.json"), text_of(sorted));
  write_file_atomically(folder / all_results, text_of(merged));
}

nlohmann::ordered_json complete_train_results(const fs::path& folder, const train_results& known) {
  nlohmann::ordered_json out = to_json(known);
  const nlohmann::json saved = object_in(folder / "train_results.json");
  const auto same = [&](const char* key) {  // as text, where NaN is null
    return saved.contains(key) && saved[key].dump() == out[key].dump();
  };
  if (!same("epoch") || !same("total_flos") || !same("train_loss")) {
    save_results(folder, "train", out);
    return out;
  }
  for (const char* key : {"train_runtime", "train_samples_per_second", "train_steps_per_second"})
    if (saved.contains(key)) out[key] = saved[key];
  return out;
}

std::string format_results(std::string_view split, const nlohmann::ordered_json& results) {
  const nlohmann::json sorted = results;
  std::vector<std::pair<std::string, std::string>> lines;
  std::size_t names = 0, values = 0;
  for (const auto& [key, value] : sorted.items()) {
    lines.emplace_back(key, shown_value(key, value));
    names = std::max(names, lines.back().first.size());
    values = std::max(values, lines.back().second.size());
  }
  std::string text = "***** " + std::string(split) + " metrics *****\n";
  for (const auto& [name, value] : lines) {
    text += "  " + name + std::string(names - name.size(), ' ') + " = " +
            std::string(values - value.size(), ' ') + value + "\n";
  }
  return text;
}

void save_json(const fs::path& path, const nlohmann::ordered_json& value) {
  write_file_atomically(path, text_of(value));
}

void trainer_state::log_step(double loss, double gradient_norm, double learning_rate) {
  log_history.push_back({{"epoch", rounded(epoch, 4)},
                         {"grad_norm", gradient_norm},
                         {"learning_rate", learning_rate},
                         {"loss", rounded(loss, 4)},
                         {"step", global_step}});
}

void trainer_state::log_results(nlohmann::ordered_json results) {
  results["epoch"] = rounded(epoch, 4);
  results["step"] = global_step;
  log_history.push_back(std::move(results));
}

nlohmann::ordered_json to_json(const trainer_state& state) {
  return {{"best_metric", nullptr},
          {"best_model_checkpoint", nullptr},
          {"epoch", state.epoch},
          {"eval_steps", state.eval_steps},
          {"global_step", state.global_step},
          {"is_hyper_param_search", false},
          {"is_local_process_zero", true},
          {"is_world_process_zero", true},
          {"log_history", state.log_history},
          {"logging_steps", state.logging_steps},
          {"max_steps", state.max_steps},
          {"num_input_tokens_seen", 0},
          {"num_train_epochs", state.num_train_epochs},
          {"save_steps", state.save_steps},
          {"stateful_callbacks", nlohmann::ordered_json::object()},
          {"total_flos", state.total_flos},
          {"train_batch_size", state.train_batch_size},
          {"trial_name", nullptr},
          {"trial_params", nullptr}};
}

trainer_state parse_trainer_state(std::string_view text, const std::string& source) {
  const nlohmann::json object = parse_json(text, source);
  const json_place root{source, ""};
  const auto whole = [&](const char* key) {
    const auto& value = require_member(object, key, json_kind::integer, root);
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{1} << 62) {
      throw input_error(root.key(key).text(), "a whole number of at most 62 bits", describe(value));
    }
    const auto number = value.get<std::int64_t>();
    if (number < 0) throw input_error(root.key(key).text(), "a whole number >= 0", describe(value));
    return number;
  };
  const auto real = [&](const char* key) {
    return require_member(object, key, json_kind::number, root).get<double>();
  };
  trainer_state state;
  state.epoch = real("epoch");
  state.global_step = whole("global_step");
  state.max_steps = whole("max_steps");
  state.num_train_epochs = whole("num_train_epochs");
  state.train_batch_size = whole("train_batch_size");
  state.logging_steps = whole("logging_steps");
  state.eval_steps = whole("eval_steps");
  state.save_steps = whole("save_steps");
  state.total_flos = real("total_flos");
  for (const auto& entry : require_member(object, "log_history", json_kind::array, root)) {
    require_kind(entry, json_kind::object, root.key("log_history"));
    state.log_history.emplace_back(entry);
  }
  return state;
}

}  // namespace bert_qa
