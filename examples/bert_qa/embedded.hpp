// The small question-answering set that is compiled in: what bert_qa trains on when it is given neither a
// model nor data. Short paragraphs in plain English are put together from hand-written sentences
// (embedded_tables.hpp) by a generator of our own, so the bytes are the same on every platform and with every
// standard library.
//
// It is SQuAD in miniature: paragraphs of three or four sentences, questions (who, where, when, what, which,
// how many, how long) whose answer is a span. No held-out paragraph is built on a person's or a town's name
// that a training paragraph has, and years, numbers and things are drawn anew: remembering the training set
// does not answer them.
#pragma once

#include <cstdint>
#include <string>

namespace bert_qa {

struct embedded_set {
  std::string vocabulary;    ///< the bytes of vocab.txt: one token a line; lower case
  std::string config_json;   ///< the bytes of config.json: a small BERT, vocab_size as above
  std::string train_json;    ///< nested SQuAD v1.1
  std::string heldout_json;  ///< the same layout; other people, other towns
  std::int64_t train_questions, heldout_questions;

  // What trains it from scratch.
  static constexpr float learning_rate = 2e-3f;
  static constexpr float warmup_ratio = 0.1f;  ///< linear, over this part of the steps, then linear to 0
  static constexpr float dropout = 0;          ///< hidden and attention, also in config_json
  static constexpr int epochs = 8;
  static constexpr int batch_size = 16;
  static constexpr int max_seq_length = 96;  ///< every pair fits: one window an example
  static constexpr int doc_stride = 32;
  static constexpr int logging_steps = 50;
};

embedded_set make_embedded_set();

}  // namespace bert_qa
