#include "checkpoint.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "files.hpp"
#include "input_error.hpp"
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

std::optional<fs::path> latest_checkpoint(const fs::path& folder) {
  const auto all = checkpoints_in(folder);
  if (all.empty()) return std::nullopt;
  return all.back().second;
}

trainer_state load_checkpoint(const fs::path& checkpoint, trainer& training) {
  const fs::path weights_path = checkpoint / "model.safetensors";
  const fs::path state_path = checkpoint / "training_state.safetensors";
  const fs::path progress_path = checkpoint / "trainer_state.json";
  const mapped_file weight_bytes(weights_path, "a checkpoint's weights");
  const mapped_file state_bytes(state_path, "a checkpoint's training state");
  const safetensors weights(weight_bytes.bytes(), weights_path.string());
  const safetensors saved(state_bytes.bytes(), state_path.string());
  trainer_state state =
      parse_trainer_state(read_file(progress_path, "a checkpoint's progress"), progress_path.string());

  const std::string weight_prefix = "weight.";
  const std::vector<state_entry> entries = training.state();
  std::vector<std::span<const std::byte>> found;
  for (const state_entry& entry : entries) {
    const bool weight = entry.name.starts_with(weight_prefix);
    const std::string name = weight ? entry.name.substr(weight_prefix.size()) : entry.name;
    const tensor_view& tensor = (weight ? weights : saved).at(name);
    if (tensor.dtype != entry.dtype || tensor.shape != entry.shape)
      throw input_error((weight ? weights_path : state_path).string() + ": " + name,
                        entry.dtype + " with the shape of this model", tensor.dtype + " with another shape");
    found.push_back(tensor.bytes);
  }
  for (std::size_t i = 0; i < entries.size(); ++i)
    std::memcpy(entries[i].bytes.data(), found[i].data(), found[i].size());
  training.state_restored();
  return state;
}

}  // namespace bert_qa
