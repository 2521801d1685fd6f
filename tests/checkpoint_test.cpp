// Checkpoints: what a run must have to go on from one, which are kept, which go, and what a killed run
// leaves.
#include "checkpoint.hpp"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "files.hpp"
#include "input_error.hpp"
#include "safetensors.hpp"
#include "scratch_folder.hpp"
#include "small_bert.hpp"

namespace {
int deaths_at = 0;  // the number of the removal after which the process is killed; 0: none
}

// In the place of libc's, which std::filesystem removes with.
extern "C" int unlinkat(int folder, const char* name, int flags) noexcept {
  const auto result = static_cast<int>(::syscall(SYS_unlinkat, folder, name, flags));
  if (deaths_at > 0 && --deaths_at == 0) ::raise(SIGKILL);
  return result;
}

namespace {

using namespace test;
namespace fs = std::filesystem;

/// A run over 20 features, batches of 6.
struct small_run {
  std::vector<feature> data;
  setup s;
  trainer training;
  model_files files;

  explicit small_run(const training_options& options = small_options(), int count = 20)
      : small_run(options, make_data(count)) {}
  small_run(const training_options& options, std::vector<feature> features, dtype type = dtype::f32)
      : data(std::move(features)), s(0.1, type), training(s.config, s.table, *s.model, data, options) {
    files.config = s.config;
  }

  void save(const scratch_folder& folder, std::int64_t step, std::optional<std::int64_t> keep = {}) {
    trainer_state state;
    state.global_step = step;
    save_checkpoint(folder.path, files, s.table, training, state, keep);
  }
};

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

/// Whether a child that does this was killed.
template <class Action>
bool killed_in(const Action& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    action();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/// Writes one counter of a checkpoint anew; without a value it is left out.
void change(const fs::path& checkpoint, const std::string& name, std::optional<std::int64_t> value) {
  const fs::path path = checkpoint / "training_state.safetensors";
  const std::string bytes = read_file(path);
  std::vector<tensor_view> tensors = safetensors(std::as_bytes(std::span(bytes)), "").tensors();
  std::erase_if(tensors, [&](const tensor_view& t) { return t.name == name; });
  if (value) tensors.push_back(view_of(name, {1}, std::span<const std::int64_t>(&*value, 1)));
  write_safetensors(path, tensors);
}

}  // namespace

TEST_CASE("what is saved is what goes on, the sum of the losses included") {
  const scratch_folder folder;
  small_run first;
  double sum = 0;
  for (int step = 0; step < 5; ++step) sum += first.training.step().loss;
  CHECK(first.training.mean_loss() == sum / 5);
  first.save(folder, 5);
  small_run second;
  CHECK(load_checkpoint(folder / "checkpoint-5", second.training).global_step == 5);
  CHECK(second.training.mean_loss() == sum / 5);
  while (!first.training.finished()) CHECK(first.training.step().loss == second.training.step().loss);
  CHECK(second.training.finished());
  CHECK(values_of(first.s.table) == values_of(second.s.table));
  CHECK(first.training.mean_loss() == second.training.mean_loss());

  second.save(folder, 8);
  small_run third;
  load_checkpoint(folder / "checkpoint-8", third.training);
  CHECK(third.training.finished());
}

TEST_CASE("a run that would not be the same is refused, by the flag that differs") {
  const scratch_folder folder;
  small_run saved;
  saved.training.step();
  saved.save(folder, 1);
  const std::string from = " as for " + (folder / "checkpoint-1").string() + ", found ";
  const auto refusal = [&](const training_options& options, const std::vector<feature>& data = make_data(20),
                           dtype type = dtype::f32) {
    small_run other(options, data, type);
    const std::vector<float> before = values_of(other.s.table);
    const auto text =
        message_of<input_error>([&] { load_checkpoint(folder / "checkpoint-1", other.training); });
    CHECK((values_of(other.s.table) == before) == !text.empty());
    return text;
  };
  CHECK(refusal(small_options()) == "");
  training_options options = small_options();
  options.batch_size = 4;
  CHECK(refusal(options) == "--per_device_train_batch_size: expected 6" + from + "4");
  options = small_options();
  options.accumulation = 2;
  CHECK(refusal(options) == "--gradient_accumulation_steps: expected 1" + from + "2");
  options = small_options();
  options.seed = 18446744073709551615u;
  CHECK(refusal(options) == "--seed: expected 11" + from + "18446744073709551615");
  options = small_options();
  options.group_by_length = true;
  CHECK(refusal(options) == "--group_by_length: expected 0" + from + "1");
  CHECK(contains(refusal(small_options(), make_data(19)), "windows of the training data"));
  CHECK(contains(refusal(small_options(), make_data(19)), "--max_train_samples"));
  CHECK(contains(refusal(small_options(), make_data(19)), ": expected 20" + from + "19"));
  for (const auto& alter :
       {+[](feature& f) { f.input_ids[2] ^= 1; }, +[](feature& f) { f.token_type_ids[2] ^= 1; },
        +[](feature& f) { f.start_position ^= 1; }, +[](feature& f) { f.end_position ^= 1; }}) {
    std::vector<feature> data = make_data(20);
    alter(data[13]);
    CHECK(contains(refusal(small_options(), data), "checksum of the training data"));
  }
  std::vector<feature> moved = make_data(20);
  std::swap(moved[3], moved[4]);
  CHECK(contains(refusal(small_options(), moved), "checksum of the training data"));
  options = small_options();
  options.pad = padding::max_length;
  CHECK(refusal(options) == "--pad_to_max_length: expected 0" + from + "1");
  CHECK(refusal(small_options(), make_data(20), dtype::bf16) ==
        "--bf16, --fp16: expected f32" + from + "bf16");
  CHECK(refusal(small_options(), make_data(20), dtype::fp16) ==
        "--bf16, --fp16: expected f32" + from + "fp16");
  // These may change: a run may become longer, or slower.
  options = small_options();
  options.epochs = 7;
  options.learning_rate = 1e-3;
  options.schedule = lr_schedule::cosine;
  options.max_length = 30;  // without padding it is the windows' alone
  CHECK(refusal(options) == "");

  options.pad = padding::max_length;
  small_run padded(options, make_data(20), dtype::bf16);
  padded.training.step();
  padded.save(folder, 1);
  CHECK(refusal(options) == "--bf16, --fp16: expected bf16" + from + "f32");
  CHECK(refusal(options, make_data(20), dtype::bf16) == "");
  options.max_length = 28;
  CHECK(refusal(options, make_data(20), dtype::bf16) == "--max_seq_length: expected 30" + from + "28");
  options.pad = padding::none;
  CHECK(refusal(options, make_data(20), dtype::bf16) == "--pad_to_max_length: expected 1" + from + "0");
}

TEST_CASE("the loss of a window of the log is that of all its steps, before the checkpoint and after") {
  const scratch_folder folder;
  small_run first;
  double sum = first.training.step().loss;
  CHECK(first.training.take_recent_loss() == sum);
  sum = first.training.step().loss;
  sum += first.training.step().loss;
  first.save(folder, 3);
  small_run second;
  load_checkpoint(folder / "checkpoint-3", second.training);
  sum += second.training.step().loss;
  CHECK(second.training.take_recent_loss() == sum / 3);
  CHECK(std::isnan(second.training.take_recent_loss()));  // of no step
}

TEST_CASE("counters that cannot be are named, and so is what an older version did not save") {
  const scratch_folder folder;
  small_run saved;
  saved.training.step();
  const fs::path checkpoint = folder / "checkpoint-1", file = checkpoint / "training_state.safetensors";
  const auto refusal = [&](const std::string& name, std::optional<std::int64_t> value) {
    saved.save(folder, 1);
    change(checkpoint, name, value);
    small_run other;
    return message_of<input_error>([&] { load_checkpoint(checkpoint, other.training); });
  };
  CHECK(refusal("data.position", -5) ==
        file.string() + ": data.position: expected a whole number from 0 to 20, found -5");
  CHECK(contains(refusal("data.position", 21),
                 "data.position: expected a whole number from 0 to 20, found 21"));
  CHECK(refusal("data.position", 20) == "");
  for (const char* name : {"adamw.t", "schedule.step", "random.step", "data.epoch", "steps.skipped",
                           "loss.count", "recent_loss.count"}) {
    INFO(name);
    CHECK(contains(refusal(name, -1), file.string() + ": " + name + ": expected a whole number from 0 to "));
    CHECK(contains(refusal(name, {}),
                   file.string() + ": " + name + ": expected a tensor that this version of bert_qa saves"));
  }
  for (const char* name : {"data.count", "data.checksum", "batch.size", "batch.accumulation", "batch.padded",
                           "type", "loss.sum", "recent_loss.sum"}) {
    CHECK(contains(refusal(name, {}), "that this version of bert_qa saves with these flags, found none"));
  }
}

TEST_CASE("a checkpoint's two counts of steps are one") {
  const scratch_folder folder;
  small_run saved;
  for (int step = 0; step < 3; ++step) saved.training.step();
  saved.save(folder, 2);
  const fs::path checkpoint = folder / "checkpoint-2";
  small_run other;
  const std::vector<float> before = values_of(other.s.table);
  CHECK(message_of<input_error>([&] { load_checkpoint(checkpoint, other.training); }) ==
        (checkpoint / "trainer_state.json").string() + ": global_step: expected 3 as in " +
            (checkpoint / "training_state.safetensors").string() + ", found 2");
  CHECK(values_of(other.s.table) == before);
}

TEST_CASE("the latest are kept; those of later steps are from an earlier run") {
  const scratch_folder folder;
  small_run run;
  for (const std::int64_t step : {5, 6, 40}) run.save(folder, step);
  CHECK(latest_checkpoint(folder.path) == folder / "checkpoint-40");
  run.save(folder, 7, 3);
  CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-5", "checkpoint-6", "checkpoint-7"});
  run.save(folder, 8, 1);
  CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-8"});
  // Without a limit, too: else the next run would go on from them.
  for (const std::int64_t step : {300, 400}) run.save(folder, step);
  run.save(folder, 150);
  CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-8", "checkpoint-150"});
  CHECK(latest_checkpoint(folder.path) == folder / "checkpoint-150");
  // Where nothing is saved any more, the limit holds all the same, and no later one is touched.
  run.save(folder, 200);
  tidy_checkpoints(folder.path, 150, 2);
  CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-8", "checkpoint-150", "checkpoint-200"});
  tidy_checkpoints(folder.path, 150, 1);
  CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-150", "checkpoint-200"});
}

TEST_CASE("killed while a checkpoint is removed: it is whole or gone, and the next run clears what is left") {
  const scratch_folder folder;
  small_run run;
  for (int death = 1; death < 6; ++death) {
    INFO(death);
    run.save(folder, 1);
    run.save(folder, 2);
    const std::set<std::string> whole = names_in(folder / "checkpoint-2");
    // An older one goes by the limit, a later one because it is of an earlier run, all when one starts anew.
    const auto kill = [&](const auto& action) {
      CHECK(killed_in([&] {
        deaths_at = death;
        action();
      }));
      for (const std::string& name : names_in(folder.path))
        if (!name.starts_with('.')) CHECK(names_in(folder / name) == whole);
    };
    kill([&] { tidy_checkpoints(folder.path, 2, 1); });
    CHECK(latest_checkpoint(folder.path) == folder / "checkpoint-2");
    CHECK(fs::exists(folder / ".checkpoint-1.partial"));
    tidy_checkpoints(folder.path, 2, {});
    CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-2"});

    kill([&] { run.save(folder, 1); });
    CHECK(latest_checkpoint(folder.path) == folder / "checkpoint-1");
    run.save(folder, 1);
    CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-1"});

    kill([&] { remove_checkpoints(folder.path); });
    CHECK(is_unused(folder.path));
    remove_checkpoints(folder.path);
    CHECK(names_in(folder.path).empty());
  }
}

TEST_CASE("what a process writes that is alive is not cleared away") {
  const scratch_folder folder;
  small_run run;
  const atomic_folder busy(folder / "checkpoint-4");
  fs::create_directory(folder / ".checkpoint-3.partial");
  run.save(folder, 2, 1);
  CHECK(names_in(folder.path) ==
        std::set<std::string>{".checkpoint-4.lock", ".checkpoint-4.partial", "checkpoint-2"});
}

TEST_CASE("what is removed is whole and unfinished checkpoints, of this program only") {
  const scratch_folder folder;
  CHECK(is_unused(folder.path));
  CHECK(!latest_checkpoint(folder.path));
  // Killed while the first was written: as good as empty.
  CHECK(killed_in([&] {
    const atomic_folder out(folder / "checkpoint-3");
    write_file_atomically(out.path() / "model.safetensors", "half");
    ::raise(SIGKILL);
  }));
  const std::set<std::string> left = {".checkpoint-3.lock", ".checkpoint-3.partial"};
  CHECK(names_in(folder.path) == left);
  CHECK(is_unused(folder.path));
  CHECK(!latest_checkpoint(folder.path));

  small_run run;
  run.save(folder, 2);
  CHECK(!is_unused(folder.path));
  const std::set<std::string> foreign = {".checkpoint-x.lock", "checkpoint-9", "checkpoint-best",
                                         "notes.lock"};
  for (const std::string& name : foreign) fs::create_directory(folder / name);
  std::ofstream(folder / "checkpoint-9" / "optimizer.pt") << "PyTorch's";
  CHECK(latest_checkpoint(folder.path) == folder / "checkpoint-2");
  remove_checkpoints(folder.path);
  CHECK(names_in(folder.path) == foreign);
  CHECK(!is_unused(folder.path));

  // Not while somebody writes there.
  run.save(folder, 2);
  const atomic_folder busy(folder / "checkpoint-4");
  const pid_t other = ::fork();
  if (other == 0) {
    const auto text = message_of<input_error>([&] { remove_checkpoints(folder.path); });
    ::_exit(contains(text, "checkpoint-4: expected to be its only writer") ? 0 : 1);
  }
  int status = 0;
  ::waitpid(other, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(fs::exists(busy.path()));
  CHECK(latest_checkpoint(folder.path) == folder / "checkpoint-2");
}

TEST_CASE("what is in a checkpoint would go with it") {
  const scratch_folder folder;
  small_run run;
  run.save(folder, 2);
  fs::create_directories(folder / "checkpoint-2" / "inside");
  fs::create_directories(folder / "checkpoint-20" / "best");  // of another program
  fs::create_directories(folder / ".checkpoint-4.partial");
  fs::create_directory_symlink(folder / "checkpoint-2", folder / "link");
  CHECK(removed_with(folder.path, folder / "checkpoint-2") == folder / "checkpoint-2");
  CHECK(removed_with(folder / "checkpoint-2" / "..", folder / "checkpoint-2" / "").has_value());
  CHECK(removed_with(folder.path, folder / "checkpoint-2" / "inside") == folder / "checkpoint-2");
  CHECK(removed_with(folder.path, folder / "link") == folder / "checkpoint-2");
  CHECK(removed_with(folder.path, folder / ".checkpoint-4.partial") == folder / ".checkpoint-4.partial");
  for (const fs::path& stays : {folder.path, folder / "checkpoint-20", folder / "checkpoint-20" / "best"})
    CHECK_FALSE(removed_with(folder.path, stays));
}
