#include "features.hpp"

#include <algorithm>
#include <string>
#include <string_view>

#include "input_error.hpp"
#include "json_input.hpp"
#include "unicode.hpp"

namespace bert_qa {
namespace {

constexpr std::int32_t special_tokens = 3;  // [CLS] question [SEP] context [SEP]

// What Python's str.lstrip takes: white space and the four separators U+001C to U+001F.
std::string_view strip_left(std::string_view text) {
  std::int64_t count = 0;
  for (const char32_t c : unicode::decode(text)) {
    if (!unicode::is_white_space(c) && !(c >= 0x1c && c <= 0x1f)) break;
    ++count;
  }
  return unicode::slice(text, count, static_cast<std::int64_t>(text.size()));
}

void set_labels(const example& e, feature& f) {
  f.start_position = f.end_position = 0;
  if (e.answers.empty() || f.context_begin == f.context_end) return;
  const std::int64_t answer_begin = e.answers[0].start;
  const std::int64_t answer_end = answer_begin + unicode::length(e.answers[0].text);
  const auto at = [&](std::int32_t i) { return f.offsets[static_cast<std::size_t>(i)]; };
  if (at(f.context_begin).begin > answer_begin || at(f.context_end - 1).end < answer_end) return;
  std::int32_t first = f.context_begin, last = f.context_end - 1;
  while (first < f.context_end && at(first).begin <= answer_begin) ++first;
  while (last >= f.context_begin && at(last).end >= answer_end) --last;
  f.start_position = first - 1;
  f.end_position = last + 1;
}

}  // namespace

void check_feature_options(const feature_options& options) {
  if (options.max_seq_length <= special_tokens) {
    throw input_error("--max_seq_length",
                      "more than the " + std::to_string(special_tokens) + " special tokens",
                      std::to_string(options.max_seq_length));
  }
  if (options.doc_stride < 0)
    throw input_error("--doc_stride", "0 or more", std::to_string(options.doc_stride));
  if (options.doc_stride >= options.max_seq_length - special_tokens) {
    throw input_error("--doc_stride",
                      "less than the window of " + std::to_string(options.max_seq_length - special_tokens) +
                          " tokens (--max_seq_length " + std::to_string(options.max_seq_length) + " less " +
                          std::to_string(special_tokens) + ")",
                      std::to_string(options.doc_stride));
  }
}

std::vector<feature> make_features(std::span<const example> examples, const tokenizer& words,
                                   const feature_options& options) {
  check_feature_options(options);
  std::vector<feature> out;
  out.reserve(examples.size() + examples.size() / 16);
  std::vector<token> context;
  const std::string* encoded = nullptr;  // questions about one paragraph follow each other: encode it once
  for (std::size_t n = 0; n < examples.size(); ++n) {
    const example& e = examples[n];
    if (encoded == nullptr || *encoded != e.context) context = words.encode(e.context);
    encoded = &e.context;
    const std::vector<token> question = words.encode(strip_left(e.question));
    const std::int64_t context_size = static_cast<std::int64_t>(context.size());
    const std::int64_t window = static_cast<std::int64_t>(options.max_seq_length) - special_tokens -
                                static_cast<std::int64_t>(question.size());
    if (context_size > window && window <= options.doc_stride) {
      throw input_error("question " + quote(e.id),
                        "at most " +
                            std::to_string(options.max_seq_length - special_tokens - options.doc_stride - 1) +
                            " tokens (--max_seq_length " + std::to_string(options.max_seq_length) +
                            ", --doc_stride " + std::to_string(options.doc_stride) + ")",
                        std::to_string(question.size()));
    }
    for (std::int64_t begin = 0;; begin += window - options.doc_stride) {
      const std::int64_t end = std::min(begin + std::max<std::int64_t>(window, 0), context_size);
      feature f;
      f.example = static_cast<std::int32_t>(n);
      const auto add = [&f](std::int32_t id, std::int32_t type, offset where) {
        f.input_ids.push_back(id);
        f.token_type_ids.push_back(type);
        f.offsets.push_back(where);
      };
      const std::size_t size = question.size() + static_cast<std::size_t>(end - begin) + special_tokens;
      f.input_ids.reserve(size);
      f.token_type_ids.reserve(size);
      f.offsets.reserve(size);
      add(words.cls_id(), 0, {});
      for (const token& t : question) add(t.id, 0, {});
      add(words.sep_id(), 0, {});
      f.context_begin = f.size();
      for (std::int64_t i = begin; i < end; ++i) {
        const token& t = context[static_cast<std::size_t>(i)];
        add(t.id, 1, {t.begin, t.end});
      }
      f.context_end = f.size();
      add(words.sep_id(), 1, {});
      set_labels(e, f);
      out.push_back(std::move(f));
      if (end == context_size) break;
    }
  }
  return out;
}

}  // namespace bert_qa
