#include "checkpoint.hpp"

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>
#include <vector>

#include "files.hpp"
#include "safetensors.hpp"

namespace bert_qa {
namespace fs = std::filesystem;
namespace {

const std::string prefix = "checkpoint-";

/// (step, folder) of the checkpoints in a folder, oldest first.
std::vector<std::pair<std::int64_t, fs::path>> checkpoints_in(const fs::path& folder) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_directory() || !name.starts_with(prefix)) continue;
    std::int64_t step = 0;
    const char* const end = name.data() + name.size();
    const auto [rest, problem] = std::from_chars(name.data() + prefix.size(), end, step);
    if (problem == std::errc() && rest == end) found.emplace_back(step, entry.path());
  }
  std::ranges::sort(found);
  return found;
}

}  // namespace

void save_model(const fs::path& folder, const model_files& files, const parameter_table& parameters) {
  write_model_files(folder, files);
  write_safetensors(folder / "model.safetensors", parameters.views());
}

void save_checkpoint(const fs::path& folder, const model_files& files, const parameter_table& parameters,
                     trainer& training, const trainer_state& state, std::optional<std::int64_t> keep) {
  atomic_folder checkpoint(folder / (prefix + std::to_string(state.global_step)));
  save_model(checkpoint.path(), files, parameters);
  std::vector<tensor_view> entries;
  for (const state_entry& entry : training.state())
    if (!entry.name.starts_with("weight."))
      entries.push_back({entry.name, entry.dtype, entry.shape, entry.bytes});
  write_safetensors(checkpoint.path() / "training_state.safetensors", entries);
  save_json(checkpoint.path() / "trainer_state.json", to_json(state));
  checkpoint.commit();

  if (!keep) return;
  auto all = checkpoints_in(folder);
  while (static_cast<std::int64_t>(all.size()) > *keep) {
    if (all.front().first != state.global_step) fs::remove_all(all.front().second);
    all.erase(all.begin());
  }
}

}  // namespace bert_qa
