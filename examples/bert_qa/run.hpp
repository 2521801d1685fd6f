#pragma once

#include "flags.hpp"

namespace bert_qa {

/// Trains, evaluates and predicts as the flags say, and writes the results. Throws input_error and
/// einkorn::error; whatever can be checked is checked before the first step.
void run(flags given);

}  // namespace bert_qa
