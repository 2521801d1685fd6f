#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "model_folder.hpp"
#include "parameters.hpp"
#include "results.hpp"
#include "trainer.hpp"

namespace bert_qa {

/// A folder that Transformers opens: config.json, vocab.txt, tokenizer files, model.safetensors.
void save_model(const std::filesystem::path& folder, const model_files& files,
                const parameter_table& parameters);

/// FOLDER/checkpoint-STEP: the model, training_state.safetensors (moments and counters, under the names of
/// trainer::state) and trainer_state.json. It appears whole or not at all. Then checkpoints of later steps
/// go, which an earlier run must have left, and what tidy_checkpoints removes.
void save_checkpoint(const std::filesystem::path& folder, const model_files& files,
                     const parameter_table& parameters, trainer& training, const trainer_state& state,
                     std::optional<std::int64_t> keep);

/// Removes what killed runs left of checkpoints in a folder that exists, and of those up to `step` the oldest
/// beyond `keep`.
void tidy_checkpoints(const std::filesystem::path& folder, std::int64_t step,
                      std::optional<std::int64_t> keep);

/// The latest checkpoint in a folder that exists, if it has one.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& folder);

/// Whether a folder that exists has nothing in it, or only what is left of the first checkpoint of a run that
/// was killed.
bool is_unused(const std::filesystem::path& folder);

/// Removes the checkpoints of this program, whole and unfinished, from a folder that exists, and nothing
/// else.
void remove_checkpoints(const std::filesystem::path& folder);

/// The checkpoint that remove_checkpoints(folder) would remove `path` with, if there is one; `path` exists.
std::optional<std::filesystem::path> removed_with(const std::filesystem::path& folder,
                                                  const std::filesystem::path& path);

/// Puts a checkpoint's weights, moments and counters in the place of the trainer's, all or none: a missing or
/// wrong file throws input_error before anything is changed. So does what gives the counters another meaning:
/// another seed, other windows (their number, their tokens and labels), another batch size, accumulation or
/// order (group_by_length), padding or none, another length of padded windows, another type of the matrix
/// products. Nothing else is compared: epochs, steps, learning rate, schedule, AdamW's numbers, clipping and
/// the model's dropout may change, and the run is another from there on. Where they do not, and the ISA level
/// does not, what follows has the bits of a run that was never stopped.
trainer_state load_checkpoint(const std::filesystem::path& checkpoint, trainer& training);

}  // namespace bert_qa
