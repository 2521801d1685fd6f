#include "predict.hpp"

#include <algorithm>
#include <numeric>

#include "trainer.hpp"

namespace bert_qa {

predictions predict(bert& model, std::span<const feature> features, std::int64_t batch_size,
                    const std::function<void(std::int64_t, std::int64_t)>& done) {
  predictions result;
  const auto n = static_cast<std::int64_t>(features.size());
  const std::int64_t steps = (n + batch_size - 1) / batch_size;
  std::size_t tokens = 0;
  index longest = 0;
  for (const feature& f : features) {
    tokens += f.input_ids.size();
    longest = std::max<index>(longest, f.size());
  }
  result.starts.reserve(tokens);
  result.ends.reserve(tokens);
  const std::int64_t width = std::min(batch_size, n);
  model.reserve(width * longest, width, longest, false);

  std::vector<std::int32_t> numbers(features.size());
  std::iota(numbers.begin(), numbers.end(), 0);
  batch_builder batch;
  for (std::int64_t first = 0; first < n; first += batch_size) {
    const auto count = static_cast<std::size_t>(std::min(batch_size, n - first));
    batch.build(features, std::span(numbers).subspan(static_cast<std::size_t>(first), count), 0,
                padding::none, 0, 0);
    const auto logits = model.forward(batch.tokens(), nullptr);
    for (index row = 0; row < logits.rows; ++row) {
      result.starts.push_back(logits(row, 0));
      result.ends.push_back(logits(row, 1));
    }
    if (done) done(++result.steps, steps);
  }
  std::size_t at = 0;
  for (const feature& f : features) {
    result.features.push_back({std::span(result.starts).subspan(at, f.input_ids.size()),
                               std::span(result.ends).subspan(at, f.input_ids.size())});
    at += f.input_ids.size();
  }
  result.steps = steps;
  return result;
}

}  // namespace bert_qa
