// bert_step: the training step, or one forward pass, of a BERT with random weights on made-up tokens, timed
// on request, so that bench/step.py can alternate it with other programs. One answer, a line of JSON, for
// each line on the standard input:
//   run SECONDS   steps until so many seconds are over, at least one: mean seconds, loss
//   end           what the steps were made of: seconds, FLOP, bytes and limit by operation; memory; the peak
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "bert.hpp"
#include "machine.hpp"
#include "parameters.hpp"
#include "settings.hpp"
#include "threads.hpp"
#include "trainer.hpp"

namespace bench {
namespace {
process_settings chosen;
}
const process_settings& settings() { return chosen; }

namespace {

using einkorn::dtype;
using json = nlohmann::json;

struct options {
  std::string model = "base", precision = "bf16";
  double dropout = 0.1;
  int batch = 12, length = 384, threads = 2;
  std::vector<int> lengths;  // of the features, cyclically; empty: all have `length`
  bool unpadded = false, inference = false, checkpointing = false, int8 = false;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bert_qa::bert_config config_of(const options& o) {
  bert_qa::bert_config c;
  if (o.model == "h384") {
    c.hidden_size = 384;
    c.intermediate_size = 1536;
  }
  c.hidden_dropout_prob = c.attention_probs_dropout_prob = o.dropout;
  return c;
}

/// As many features as lengths were given, at least one batch of them; answers of four tokens.
std::vector<bert_qa::feature> made_up(const options& o) {
  std::mt19937 random(1);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  std::vector<bert_qa::feature> features(
      std::max(static_cast<std::size_t>(o.batch),
               o.lengths.size() / static_cast<std::size_t>(o.batch) * static_cast<std::size_t>(o.batch)));
  for (std::size_t i = 0; i < features.size(); ++i) {
    const int length = o.lengths.empty() ? o.length : o.lengths[i % o.lengths.size()];
    bert_qa::feature& f = features[i];
    for (int t = 0; t < length; ++t) {
      f.input_ids.push_back(1000 + below(29000));
      f.token_type_ids.push_back(t >= 16);
    }
    f.offsets.resize(static_cast<std::size_t>(length));
    f.start_position = below(length);
    f.end_position = std::min(f.start_position + 3, length - 1);
  }
  return features;
}

/// FLOP and bytes that a phase of one step cannot do without.
struct work {
  double flop = 0, bytes = 0;
};
work work_of(const std::string& phase, const bert_qa::bert_config& c, double rows, double rows_times_keys,
             double parameters, double e) {
  const auto h = static_cast<double>(c.hidden_size), i = static_cast<double>(c.intermediate_size),
             layers = static_cast<double>(c.num_hidden_layers);
  const double weights = layers * (4 * h * h + 2 * h * i);
  if (phase == "linear" || phase == "linear_dx" || phase == "linear_dw") return {2 * rows * weights, 0};
  if (phase == "attention") return {layers * 4 * rows_times_keys * h, 0};
  if (phase == "attention_backward") return {layers * 10 * rows_times_keys * h, 0};
  if (phase == "pack_weights") return {0, weights * (4 + 2 * (e < 4 ? e : 4))};
  if (phase == "embedding") return {0, rows * h * (4 + 4 + 4 + (e < 4 ? e : 0))};
  if (phase == "layernorm") return {0, layers * 2 * rows * h * (e + 4 + 4 + 4 + (e < 4 ? e : 0))};
  if (phase == "gelu_backward") return {0, layers * rows * i * 5 * e};  // and the activation again, for dW
  if (phase == "layernorm_backward") return {0, layers * 2 * rows * h * (4 + 4 + 4 + e)};
  if (phase == "embedding_backward") return {0, rows * h * 12};
  if (phase == "gradient_norm") return {0, parameters * 4};
  if (phase == "adamw") return {0, parameters * (16 + 16)};  // read w g m v, write w m v and zeros for g
  return {};
}

double best_seconds(const std::function<void()>& call, int times) {
  double best = 1e30;
  for (int i = 0; i < times; ++i) {
    const double start = now();
    call();
    best = std::min(best, now() - start);
  }
  return best;
}

/// The machine's limits for this type, from all calls: the best of registers, the median of memory, whose
/// rate moves with what the neighbours do; and the mean of registers between the steps, for the same reason.
struct limits {
  double flop_rate = 0, byte_rate = 0;
  double sustained_flop = 0, sustained_seconds = 0;
  std::array<std::vector<double>, 2> moved;  // seconds with plain stores, and with those past the caches

  void sustain(dtype type) {
    const register_loop peak = register_peak(einkorn::active_isa(), type);
    const double start = now();
    for (double spent = 0; peak.run && spent < 0.1; spent = now() - start) {
      peak.run();
      sustained_flop += peak.flop;
    }
    sustained_seconds += now() - start;
  }

  void measure(dtype type) {
    const register_loop peak = register_peak(einkorn::active_isa(), type);
    if (peak.run) flop_rate = std::max(flop_rate, peak.flop / best_seconds(peak.run, 300));
    const memory from(index{128} << 20), to(index{128} << 20);
    const std::vector<stream> streams{{stream::read, from.data(), from.bytes()},
                                      {stream::write, to.data(), to.bytes()}};
    // Plain stores also read what they overwrite, and AdamW has none of those: the better of both kinds.
    byte_rate = 0;
    for (const bool streaming : {false, true}) {
      std::vector<double>& samples = moved[streaming];
      const auto move = stream_loop(streams, streaming);
      for (int i = 0; i < 9; ++i) samples.push_back(best_seconds(move, 1));
      std::vector<double> sorted = samples;
      std::sort(sorted.begin(), sorted.end());
      byte_rate = std::max(byte_rate, bytes_of(streams) / sorted[sorted.size() / 2]);
    }
  }
};

int run(const options& o) {
  chosen.threads = o.threads;
  bert_qa::use_threads(o.threads);
  const bert_qa::bert_config config = config_of(o);
  const dtype type = o.precision == "bf16" ? dtype::bf16 : o.precision == "fp16" ? dtype::fp16 : dtype::f32;
  limits machine;
  machine.measure(type);  // before the model is there: its memory is what is reported
  bert_qa::parameter_table parameters(config, type,
                                      o.inference ? bert_qa::parameter_table::purpose::inference
                                                  : bert_qa::parameter_table::purpose::training);
  parameters.initialise(7);
  const auto model = bert_qa::make_bert(config, parameters, {.gradient_checkpointing = o.checkpointing});
  const std::vector<bert_qa::feature> features = made_up(o);

  bert_qa::training_options training;
  training.batch_size = o.batch;
  training.max_steps = 1000000;
  training.learning_rate = 3e-5;
  training.pad = o.unpadded ? bert_qa::padding::none : bert_qa::padding::max_length;
  training.max_length = o.length;
  std::unique_ptr<bert_qa::trainer> trainer;
  bert_qa::batch_builder builder;
  if (o.inference) {
    std::vector<std::int32_t> all(static_cast<std::size_t>(o.batch));
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int32_t>(i);
    builder.build(features, all, 0, training.pad, o.length, 0);
    model->weights_changed();
    if (o.int8) model->use_int8();
    model->reserve(builder.tokens().rows(), o.batch, o.length, false);
  } else {
    trainer = std::make_unique<bert_qa::trainer>(config, parameters, *model, features, training);
    trainer->state_restored();
  }

  double rows = 0, rows_times_keys = 0, flop = 0, seconds = 0;
  std::int64_t steps = 0;
  bool warm = false;
  const auto count_work = [&](std::span<const einkorn::sequence> batch) {
    for (const einkorn::sequence& s : batch) {
      rows += s.rows;
      rows_times_keys += static_cast<double>(s.rows) * s.keys;
    }
  };
  const auto step = [&]() -> double {
    if (o.inference) {
      model->forward(builder.tokens(), nullptr);
      flop += bert_qa::forward_flop(config, builder.sequences());
      count_work(builder.sequences());
      return 0;
    }
    const bert_qa::step_report report = trainer->step();
    flop += report.flop;
    // The trainer says how many tokens a step had; keys follow from FLOP, which the model counts from both.
    rows += static_cast<double>(report.tokens);
    const auto h = static_cast<double>(config.hidden_size), i = static_cast<double>(config.intermediate_size),
               layers = static_cast<double>(config.num_hidden_layers),
               tokens = static_cast<double>(report.tokens);
    rows_times_keys +=
        (report.flop / 3 - 4 * tokens * h - layers * 2 * tokens * (4 * h * h + 2 * h * i)) / (layers * 4 * h);
    return report.loss;
  };

  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "run") {
      double budget = 0;
      words >> budget;
      const double start = now();
      std::int64_t done = 0;
      double loss = 0;
      do {
        loss = step();
        ++done;
      } while (now() - start < budget);
      const double spent = now() - start;
      std::cout << json{{"seconds", spent / static_cast<double>(done)}, {"loss", loss}}.dump() << std::endl;
      if (std::exchange(warm, true)) {
        seconds += spent;
        steps += done;
        machine.sustain(type);
      } else {  // the first run counts in nothing
        model->times = {};
        rows = rows_times_keys = flop = 0;
      }
    } else if (verb == "end") {
      const double count = std::max(1.0, static_cast<double>(steps));
      rusage usage{};
      getrusage(RUSAGE_SELF, &usage);
      machine.measure(type);
      const double peak_rate = machine.flop_rate, byte_rate = machine.byte_rate;
      json out{{"engine", "einkorn"},
               {"isa", einkorn::name(einkorn::active_isa())},
               {"seconds_per_step", seconds / count},
               {"flop_per_step", flop / count},
               {"tokens_per_step", rows / count},
               {"peak_flops", peak_rate},
               {"sustained_flops", machine.sustained_flop / std::max(machine.sustained_seconds, 1e-9)},
               {"stream_bytes_per_second", byte_rate},
               {"mfu", peak_rate > 0 && seconds > 0 ? flop / seconds / peak_rate : 0},
               {"peak_rss_gib", static_cast<double>(usage.ru_maxrss) / 1048576},
               {"parameters", parameters.count()}};
      for (const std::vector<bert_qa::memory_use>& uses : {parameters.memory(), model->memory()})
        for (const bert_qa::memory_use& use : uses)
          out["memory"].push_back({{"purpose", use.purpose}, {"bytes", use.bytes}});
      double named = 0;
      for (std::size_t p = 0; p < bert_qa::phase_names.size(); ++p) {
        const double time = model->times[p] / count;
        const work w = work_of(bert_qa::phase_names[p], config, rows / count, rows_times_keys / count,
                               static_cast<double>(parameters.count()), static_cast<double>(size_of(type)));
        const double limit = std::max(peak_rate > 0 ? w.flop / peak_rate : 0, w.bytes / byte_rate);
        out["operations"].push_back({{"name", bert_qa::phase_names[p]},
                                     {"seconds", time},
                                     {"flop", w.flop},
                                     {"bytes", w.bytes},
                                     {"share_of_limit", time > 0 ? limit / time : 0}});
        named += time;
      }
      out["operations"].push_back({{"name", "rest"}, {"seconds", seconds / count - named}});
      std::cout << out.dump() << std::endl;
      return 0;
    }
  }
  return 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  bench::options o;
  CLI::App app{"Times the training step or the forward pass of a BERT with random weights"};
  app.add_option("--model", o.model, "base or h384 (12 layers each)")->check(CLI::IsMember({"base", "h384"}));
  app.add_option("--precision", o.precision)->check(CLI::IsMember({"f32", "bf16", "fp16"}));
  app.add_option("--dropout", o.dropout);
  app.add_option("--batch", o.batch)->check(CLI::PositiveNumber);
  app.add_option("--length", o.length, "tokens that a padded sequence has")->check(CLI::Range(4, 512));
  app.add_option("--lengths", o.lengths, "real tokens of the features, separated by commas")->delimiter(',');
  app.add_option("--threads", o.threads)->check(CLI::PositiveNumber);
  app.add_flag("--unpadded", o.unpadded, "no padding tokens");
  app.add_flag("--inference", o.inference, "the forward pass alone");
  app.add_flag("--checkpointing", o.checkpointing, "training: activations computed again in backward");
  app.add_flag("--int8", o.int8, "inference: linear layers multiply bytes");
  CLI11_PARSE(app, argc, argv);
  try {
    return bench::run(o);
  } catch (const std::exception& e) {
    std::cerr << "bert_step: " << e.what() << "\n";
    return 2;
  }
}
