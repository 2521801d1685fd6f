#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "squad.hpp"
#include "tokenizer.hpp"

namespace bert_qa {

struct feature_options {
  std::int32_t max_seq_length = 384;  ///< tokens of a window, the three special ones included
  std::int32_t doc_stride = 128;      ///< context tokens that two windows share (overlap, not step)
};

/// Code points [begin, end) of the context; (-1, -1) for a token that is not of the context.
struct offset {
  std::int32_t begin = -1, end = -1;
  bool operator==(const offset&) const = default;
};

/// One window: [CLS] question [SEP] part of the context [SEP], not padded. All vectors have the same size.
struct feature {
  std::int32_t example = 0;  ///< index into the examples
  std::vector<std::int32_t> input_ids;
  std::vector<std::int32_t> token_type_ids;  ///< 1 from the first context token to the end
  std::vector<offset> offsets;
  std::int32_t context_begin = 0, context_end = 0;  ///< tokens of the context, half open
  /// Labels for training, positions of the first and the last token of the first answer; both 0, the
  /// position of [CLS], where the answer is not wholly in the window, or there is none.
  std::int32_t start_position = 0, end_position = 0;

  std::int32_t size() const { return static_cast<std::int32_t>(input_ids.size()); }
  bool is_context(std::int32_t i) const { return i >= context_begin && i < context_end; }
};

/// Throws input_error naming --max_seq_length and --doc_stride if no window can satisfy them: call it with
/// the flags, before any file is read.
void check_feature_options(const feature_options& options);

/// The windows of all examples, in order. The question is stripped on the left; only the context is cut.
///
/// Windows of a context advance by (window − doc_stride) tokens, window = max_seq_length − question tokens
/// − 3, and the last is the first that reaches the end, as the Rust tokenizer of Transformers makes them.
/// Labels as run_qa.py, with one difference: there, an answer that begins in the last token of a window gets
/// the final [SEP] (or the last padding) as its start, because the walk does not stop at the context's end;
/// here it gets that last token.
/// Throws input_error if a question leaves a context that must be cut no room, or no more than doc_stride.
std::vector<feature> make_features(std::span<const example> examples, const tokenizer& words,
                                   const feature_options& options);

}  // namespace bert_qa
