#include "results.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <limits>

#include "files.hpp"
#include "input_error.hpp"
#include "scratch_folder.hpp"

using namespace bert_qa;
using nlohmann::json;

namespace {

train_results some_training() {
  train_results results;
  results.epoch = 2;
  results.loss = 1.0625;
  results.seconds = 120.00004;
  results.total_flos = 3.5e13;
  results.samples = 8000;
  results.samples_seen = 16000;
  results.steps = 1334;
  return results;
}

eval_results some_evaluation() {
  eval_results results;
  results.epoch = 2;
  results.seconds = 8;
  results.samples = 10784;
  results.steps = 1348;
  results.scores = {{"exact_match", 81.22}, {"f1", 88.52}};
  return results;
}

}  // namespace

TEST_CASE("the keys and the rounding of Transformers") {
  const json train = to_json(some_training());
  CHECK(train == json{{"epoch", 2.0},
                      {"total_flos", 3.5e13},
                      {"train_loss", 1.0625},
                      {"train_runtime", 120.0},
                      {"train_samples", 8000},
                      {"train_samples_per_second", 133.333},
                      {"train_steps_per_second", 11.117}});
  const json eval = to_json(some_evaluation());
  CHECK(eval == json{{"epoch", 2.0},
                     {"exact_match", 81.22},
                     {"f1", 88.52},
                     {"eval_exact_match", 81.22},
                     {"eval_f1", 88.52},
                     {"eval_runtime", 8.0},
                     {"eval_samples", 10784},
                     {"eval_samples_per_second", 1348.0},
                     {"eval_steps_per_second", 168.5}});
  const json predict = to_json(some_evaluation(), "predict");
  CHECK(predict == json{{"epoch", 2.0},
                        {"predict_exact_match", 81.22},
                        {"predict_f1", 88.52},
                        {"predict_runtime", 8.0},
                        {"predict_samples", 10784},
                        {"predict_samples_per_second", 1348.0},
                        {"predict_steps_per_second", 168.5}});
  eval_results unlabelled = some_evaluation();
  unlabelled.scores = nullptr;
  CHECK(to_json(unlabelled, "predict").size() == 5);
  eval_results untrained;
  untrained.scores = {{"f1", 1.0}};
  const json alone = to_json(untrained);
  CHECK(!alone.contains("epoch"));
  CHECK(!alone.contains("eval_samples_per_second"));  // no time has passed: no infinity in the JSON
  CHECK(alone["eval_samples"] == 0);
}

TEST_CASE("each split has its file, and all_results.json all of them") {
  const scratch_folder folder;
  save_results(folder.path, "train", to_json(some_training()));
  CHECK(json::parse(read_file(folder / "all_results.json")) ==
        json::parse(read_file(folder / "train_results.json")));
  save_results(folder.path, "eval", to_json(some_evaluation()));
  const json all = json::parse(read_file(folder / "all_results.json"));
  CHECK(all["train_loss"] == 1.0625);
  CHECK(all["eval_f1"] == 88.52);
  CHECK(all.size() == 7 + 9 - 1);  // epoch is in both
  CHECK(json::parse(read_file(folder / "eval_results.json")) == json(to_json(some_evaluation())));

  eval_results better = some_evaluation();
  better.scores["f1"] = 90.0;
  save_results(folder.path, "eval", to_json(better));
  CHECK(json::parse(read_file(folder / "all_results.json"))["eval_f1"] == 90.0);
  CHECK(json::parse(read_file(folder / "all_results.json"))["train_loss"] == 1.0625);

  // What a split does not have any more does not stay there.
  save_results(folder.path, "predict", {{"predict_f1", 50.0}, {"predict_samples", 3}});
  save_results(folder.path, "predict", {{"predict_samples", 3}});
  CHECK(!json::parse(read_file(folder / "all_results.json")).contains("predict_f1"));

  // As text: indent 4, sorted.
  save_results(folder.path, "predict", {{"predict_samples", 3}, {"epoch", 2.0}});
  CHECK(read_file(folder / "predict_results.json") ==
        "{\n    \"epoch\": 2.0,\n    \"predict_samples\": 3\n}\n");

  std::ofstream(folder / "all_results.json") << "{\"a\": ";
  const auto refused =
      message_of<input_error>([&] { save_results(folder.path, "train", to_json(some_training())); });
  CHECK(contains(refused, "all_results.json: expected JSON"));
  CHECK(refused == message_of<input_error>([&] { read_all_results(folder.path); }));
  std::ofstream(folder / "all_results.json") << "[]";
  CHECK(
      contains(message_of<input_error>([&] { read_all_results(folder.path); }), "an object, found an array"));
  std::filesystem::remove(folder / "all_results.json");
  CHECK(read_all_results(folder.path) == json::object());
}

TEST_CASE("a run that was killed after its last step has results without times, unless it had written them") {
  const scratch_folder folder;
  train_results known = some_training();
  known.seconds = 0;
  known.samples_seen = known.steps = 0;
  const json without = {
      {"epoch", 2.0}, {"total_flos", 3.5e13}, {"train_loss", 1.0625}, {"train_samples", 8000}};
  const auto in = [&](const char* name) { return json::parse(read_file(folder / name)); };
  CHECK(json(complete_train_results(folder.path, known)) == without);
  CHECK(in("train_results.json") == without);
  CHECK(in("all_results.json") == without);

  save_results(folder.path, "train", to_json(some_training()));
  CHECK(json(complete_train_results(folder.path, known)) == json(to_json(some_training())));
  CHECK(in("train_results.json")["train_runtime"] == 120.0);

  // Those of another run are not this one's, and neither are its times.
  known.loss = std::numeric_limits<double>::quiet_NaN();
  complete_train_results(folder.path, known);
  for (const char* name : {"train_results.json", "all_results.json"}) {
    CHECK(in(name)["train_loss"].is_null());
    CHECK(!in(name).contains("train_runtime"));
  }
  train_results timed = known;
  timed.seconds = 3;
  timed.steps = 1;
  save_results(folder.path, "train", to_json(timed));
  CHECK(complete_train_results(folder.path, known)["train_runtime"] == 3.0);
}

TEST_CASE("predictions keep their order, in ASCII, whatever bytes they hold") {
  const scratch_folder folder;
  save_json(folder / "eval_predictions.json",
            {{"z", "caf\xc3\xa9"}, {"a", "\xf0\x9f\x98\x80\n"}, {"b", "\xff"}});
  CHECK(read_file(folder / "eval_predictions.json") ==
        "{\n    \"z\": \"caf\\u00e9\",\n    \"a\": \"\\ud83d\\ude00\\n\",\n    \"b\": \"\\ufffd\"\n}\n");
}

TEST_CASE("for a person") {
  CHECK(format_results("eval", to_json(some_evaluation())) ==
        "***** eval metrics *****\n"
        "  epoch                   =     2.0000\n"
        "  eval_exact_match        =    81.2200\n"
        "  eval_f1                 =    88.5200\n"
        "  eval_runtime            = 0:00:08.00\n"
        "  eval_samples            =      10784\n"
        "  eval_samples_per_second =  1348.0000\n"
        "  eval_steps_per_second   =   168.5000\n"
        "  exact_match             =    81.2200\n"
        "  f1                      =    88.5200\n");
  CHECK(contains(format_results("train", {{"train_runtime", 3723.456}}), "= 1:02:03.46"));
}

TEST_CASE("trainer_state.json and back") {
  trainer_state state;
  state.max_steps = 1334;
  state.num_train_epochs = 2;
  state.train_batch_size = 12;
  state.epoch = 0.74962518;
  state.global_step = 500;
  state.log_step(2.345678, 7.25, 1.875e-5);
  state.epoch = 2;
  state.global_step = 1334;
  state.total_flos = 3.5e13;
  state.log_results(to_json(some_training()));
  const scratch_folder folder;
  save_json(folder / "trainer_state.json", to_json(state));
  const std::string text = read_file(folder / "trainer_state.json");
  const json written = json::parse(text);
  // Every field that Transformers' TrainerState must find.
  for (const char* key :
       {"best_metric", "best_model_checkpoint", "epoch", "eval_steps", "global_step", "is_hyper_param_search",
        "is_local_process_zero", "is_world_process_zero", "log_history", "logging_steps", "max_steps",
        "num_input_tokens_seen", "num_train_epochs", "save_steps", "stateful_callbacks", "total_flos",
        "train_batch_size", "trial_name", "trial_params"}) {
    CHECK_MESSAGE(written.contains(key), key);
  }
  CHECK(written["num_train_epochs"].is_number_integer());
  CHECK(written["log_history"].size() == 2);
  CHECK(written["log_history"][0] == json{{"epoch", 0.7496},
                                          {"grad_norm", 7.25},
                                          {"learning_rate", 1.875e-5},
                                          {"loss", 2.3457},
                                          {"step", 500}});
  CHECK(written["log_history"][1]["train_loss"] == 1.0625);
  CHECK(written["log_history"][1]["step"] == 1334);

  const trainer_state again = parse_trainer_state(text, "FILE");
  CHECK(to_json(again) == to_json(state));

  const auto refused = [](const std::string& json_text) {
    return message_of<input_error>([&] { parse_trainer_state(json_text, "FILE"); });
  };
  CHECK(contains(refused("{}"), "FILE: expected the key \"epoch\", found none"));
  json broken = written;
  broken["global_step"] = -1;
  CHECK(contains(refused(broken.dump()), "global_step"));
  broken["global_step"] = 18446744073709551615u;
  CHECK(contains(refused(broken.dump()), "global_step"));
  broken = written;
  broken["log_history"] = {1};
  CHECK(contains(refused(broken.dump()), "log_history"));
}
