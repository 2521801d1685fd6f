#include "checkpoint.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>
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
const std::string training_state = "training_state.safetensors";

using checkpoint_folder = std::pair<std::int64_t, fs::path>;  // its step and its place

/// The N of checkpoint-N.
std::optional<std::int64_t> step_of(std::string_view name) {
  if (!name.starts_with(prefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* const end = name.data() + name.size();
  const auto [rest, problem] = std::from_chars(name.data() + prefix.size(), end, step);
  if (problem != std::errc() || rest != end || step < 0) return std::nullopt;
  return step;
}

/// In the order of their steps. Those of other programs have no training_state.safetensors.
std::vector<checkpoint_folder> checkpoints_in(const fs::path& folder) {
  std::vector<checkpoint_folder> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto step = step_of(entry.path().filename().string());
    if (step && fs::exists(entry.path() / training_state)) found.emplace_back(*step, entry.path());
  }
  std::ranges::sort(found);
  return found;
}

/// The folder that a run was writing when it was killed, if `left` is what atomic_folder leaves of it then.
std::optional<fs::path> unfinished(const fs::path& left) {
  const std::string ending = left.extension().string(), name = left.stem().string();
  if ((ending != ".partial" && ending != ".lock") || !name.starts_with('.') || !step_of(name.substr(1)))
    return std::nullopt;
  return left.parent_path() / name.substr(1);
}

/// The folders that something of the kind is left of.
std::set<fs::path> unfinished_in(const fs::path& folder) {
  std::set<fs::path> left;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const auto checkpoint = unfinished(entry.path())) left.insert(*checkpoint);
  return left;
}

/// In one step: a run that is killed meanwhile leaves no checkpoint that is not whole.
void remove_checkpoint(const fs::path& checkpoint) { atomic_folder(checkpoint).remove(); }

/// What is compared, for a person: U8 is text, anything else a whole number of up to 8 bytes.
std::string shown(const std::string& dtype, std::span<const std::byte> bytes) {
  if (dtype == "U8") {
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return text.substr(0, text.find_last_not_of(' ') + 1);
  }
  std::uint64_t number = 0;
  std::memcpy(&number, bytes.data(), bytes.size());
  return std::to_string(number);
}

/// What a checkpoint has for an entry.
std::span<const std::byte> checked(const state_entry& entry, const tensor_view* saved,
                                   const std::string& place, const fs::path& checkpoint) {
  if (saved == nullptr)
    throw input_error(place, "a tensor that this version of bert_qa saves with these flags", "none");
  if (saved->dtype != entry.dtype || saved->shape != entry.shape)
    throw input_error(place, entry.dtype + " with the shape of this model",
                      saved->dtype + " with another shape");
  if (!entry.given_by.empty()) {
    if (!std::ranges::equal(saved->bytes, entry.bytes))
      throw input_error(entry.given_by, shown(entry.dtype, saved->bytes) + " as for " + checkpoint.string(),
                        shown(entry.dtype, entry.bytes));
  } else if (entry.dtype == "I64") {
    std::int64_t counter = 0;
    std::memcpy(&counter, saved->bytes.data(), sizeof counter);
    if (counter < 0 || counter > entry.largest)
      throw input_error(place, "a whole number from 0 to " + std::to_string(entry.largest),
                        std::to_string(counter));
  }
  return saved->bytes;
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
  write_safetensors(checkpoint.path() / training_state, entries);
  save_json(checkpoint.path() / "trainer_state.json", to_json(state));
  checkpoint.commit();

  // The latest first: a kill must not leave one that the next run would go on from.
  const auto all = checkpoints_in(folder);
  for (auto last = all.rbegin(); last != all.rend() && last->first > state.global_step; ++last)
    remove_checkpoint(last->second);
  tidy_checkpoints(folder, state.global_step, keep);
}

void tidy_checkpoints(const fs::path& folder, std::int64_t step, std::optional<std::int64_t> keep) {
  for (const fs::path& checkpoint : unfinished_in(folder)) remove_unfinished(checkpoint);
  if (!keep) return;
  auto own = checkpoints_in(folder);
  own.erase(std::ranges::upper_bound(own, step, {}, &checkpoint_folder::first), own.end());
  for (auto oldest = own.begin(); own.end() - oldest > *keep; ++oldest) remove_checkpoint(oldest->second);
}

std::optional<fs::path> latest_checkpoint(const fs::path& folder) {
  const auto all = checkpoints_in(folder);
  if (all.empty()) return std::nullopt;
  return all.back().second;
}

bool is_unused(const fs::path& folder) {
  const fs::directory_iterator entries(folder);
  return std::all_of(begin(entries), end(entries),
                     [](const auto& entry) { return unfinished(entry.path()).has_value(); });
}

void remove_checkpoints(const fs::path& folder) {
  // Its next writer takes away what was left, and its own if it does not commit; or says that one is at work.
  for (const fs::path& checkpoint : unfinished_in(folder)) atomic_folder abandoned(checkpoint);
  for (const auto& [step, checkpoint] : checkpoints_in(folder)) remove_checkpoint(checkpoint);
}

std::optional<fs::path> removed_with(const fs::path& folder, const fs::path& path) {
  std::vector<fs::path> goes;
  for (const auto& entry : fs::directory_iterator(folder))
    if (unfinished(entry.path())) goes.push_back(entry.path());
  for (const auto& [step, checkpoint] : checkpoints_in(folder)) goes.push_back(checkpoint);
  const fs::path whole = fs::canonical(path);
  for (const fs::path& checkpoint : goes) {
    const fs::path above = fs::canonical(checkpoint);
    if (std::mismatch(above.begin(), above.end(), whole.begin(), whole.end()).first == above.end())
      return checkpoint;
  }
  return std::nullopt;
}

trainer_state load_checkpoint(const fs::path& checkpoint, trainer& training) {
  const fs::path weights_path = checkpoint / "model.safetensors";
  const fs::path state_path = checkpoint / training_state;
  const fs::path progress_path = checkpoint / "trainer_state.json";
  const mapped_file weight_bytes(weights_path, "a checkpoint's weights");
  const mapped_file state_bytes(state_path, "a checkpoint's training state");
  const safetensors weights(weight_bytes.bytes(), weights_path.string());
  const safetensors saved(state_bytes.bytes(), state_path.string());

  const std::string weight_prefix = "weight.";
  const std::vector<state_entry> entries = training.state();
  std::vector<std::span<const std::byte>> found;
  for (const state_entry& entry : entries) {
    const bool weight = entry.name.starts_with(weight_prefix);
    const std::string name = weight ? entry.name.substr(weight_prefix.size()) : entry.name;
    found.push_back(checked(entry, (weight ? weights : saved).find(name),
                            (weight ? weights_path : state_path).string() + ": " + name, checkpoint));
  }
  trainer_state state =
      parse_trainer_state(read_file(progress_path, "a checkpoint's progress"), progress_path.string());
  // Written together: a file of another checkpoint has been put in the place of one.
  const auto steps = std::ranges::find(entries, "random.step", &state_entry::name) - entries.begin();
  const std::string counted = shown("I64", found[static_cast<std::size_t>(steps)]);
  if (counted != std::to_string(state.global_step))
    throw input_error(progress_path.string() + ": global_step", counted + " as in " + state_path.string(),
                      std::to_string(state.global_step));
  for (std::size_t i = 0; i < entries.size(); ++i)
    std::memcpy(entries[i].bytes.data(), found[i].data(), found[i].size());
  training.state_restored();
  return state;
}

}  // namespace bert_qa
