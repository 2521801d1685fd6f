// Checkpoints: what a run must have to go on from one, which are kept, which go, and what a killed run
// leaves.
#include "checkpoint.hpp"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "files.hpp"
#include "input_error.hpp"
#include "scratch_folder.hpp"
#include "small_bert.hpp"

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
      : data(make_data(count)), s(0.1), training(s.config, s.table, *s.model, data, options) {
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

}  // namespace

TEST_CASE("the latest are kept; those of later steps are from an earlier run") {
  const scratch_folder folder;
  small_run run;
  for (const std::int64_t step : {5, 6, 40}) run.save(folder, step);
  CHECK(latest_checkpoint(folder.path) == folder / "checkpoint-40");
  run.save(folder, 7, 3);
  CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-5", "checkpoint-6", "checkpoint-7"});
  run.save(folder, 8, 1);
  CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-8"});
}

TEST_CASE("what is removed is whole and unfinished checkpoints, of this program only") {
  const scratch_folder folder;
  CHECK(is_unused(folder.path));
  CHECK(!latest_checkpoint(folder.path));
  // Killed while the first was written: as good as empty.
  const pid_t child = ::fork();
  if (child == 0) {
    const atomic_folder out(folder / "checkpoint-3");
    write_file_atomically(out.path() / "model.safetensors", "half");
    ::raise(SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
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
