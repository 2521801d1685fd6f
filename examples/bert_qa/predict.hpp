#pragma once

#include <functional>
#include <span>
#include <vector>

#include "answers.hpp"
#include "bert.hpp"
#include "features.hpp"

namespace bert_qa {

/// The logits of every feature, one float a token of it.
struct predictions {
  std::vector<float> starts, ends;       ///< all features, one after the other
  std::vector<feature_logits> features;  ///< views of the two
  std::int64_t steps = 0;
};

/// Forward without dropout, `batch_size` features at a time, packed without padding: the logits of a token
/// do not depend on what else is in the batch. done(steps so far, all steps) after each batch.
predictions predict(bert& model, std::span<const feature> features, std::int64_t batch_size,
                    const std::function<void(std::int64_t, std::int64_t)>& done = {});

}  // namespace bert_qa
