#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bert_qa {

/// How text is cleaned before it is looked up, and the names of the special tokens: the keys of
/// tokenizer_config.json, with BertTokenizer's defaults.
struct tokenizer_options {
  /// The class is not BERT's own (PreTrainedTokenizerFast, TokenizersBackend): Transformers takes the
  /// vocabulary and how text is cleaned from tokenizer.json, and BertTokenizer's keys do not count.
  bool from_tokenizer_json = false;
  bool clean_text = true;  ///< in tokenizer.json only: control characters dropped
  bool do_lower_case = true;
  std::optional<bool> strip_accents;  ///< not set (null): as do_lower_case says
  bool tokenize_chinese_chars = true;
  /// model_max_length, where it is one: Transformers writes 1e30 for none.
  std::optional<std::int64_t> max_length;
  std::string unk_token = "[UNK]", sep_token = "[SEP]", pad_token = "[PAD]", cls_token = "[CLS]",
              mask_token = "[MASK]";
};

/// Reads the options from the bytes of tokenizer_config.json; `name` is the file in error messages.
/// Keys that are missing keep their default. Throws input_error, also for a tokenizer that is not WordPiece.
tokenizer_options parse_tokenizer_config(std::string_view bytes, const std::string& name);

/// Puts what the bytes of tokenizer.json say in the place of the options that clean text. Throws input_error
/// for a tokenizer that is not BERT's: another normalizer, pre_tokenizer or model than BertNormalizer,
/// BertPreTokenizer and WordPiece with "##" have.
void parse_tokenizer_json(std::string_view bytes, const std::string& name, tokenizer_options& options);

/// A WordPiece and where it came from: [begin, end) in Unicode code points of the text that was given.
struct token {
  std::int32_t id, begin, end;
};

/// WordPiece as BertTokenizer of Transformers (its Rust tokenizer) does it: the same ids and offsets.
///
/// The text is split at the literal special tokens ([SEP], [MASK] …, upper case only, which become their
/// ids); the rest is cleaned, Han ideographs are set apart, accents stripped by NFD, lower-cased, split at
/// white space and punctuation, and every word is cut into the longest pieces of the vocabulary from its
/// front. A word that cannot be cut, or has over 100 code points, is one [UNK]. Text that is not UTF-8 does
/// not fail: see unicode::decode; the cleaning drops the U+FFFD. const member functions may be called from
/// several threads.
class tokenizer {
 public:
  /// vocabulary: the bytes of vocab.txt, a token a line, the id is the line number from 0. A token that
  /// appears twice has the later id. `name` is the file in error messages.
  /// Throws input_error if it is not UTF-8, or lacks one of the options' pad, unk, cls, sep tokens.
  tokenizer(std::string_view vocabulary, const tokenizer_options& options, const std::string& name);

  /// Without [CLS] and [SEP].
  std::vector<token> encode(std::string_view utf8) const;

  std::int32_t size() const { return static_cast<std::int32_t>(tokens_.size()); }
  /// The token with this id; throws std::out_of_range.
  const std::string& to_token(std::int32_t id) const { return tokens_.at(static_cast<std::size_t>(id)); }
  std::optional<std::int32_t> to_id(std::string_view token) const;

  std::int32_t pad_id() const { return pad_id_; }
  std::int32_t unk_id() const { return unk_id_; }
  std::int32_t cls_id() const { return cls_id_; }
  std::int32_t sep_id() const { return sep_id_; }
  /// Not set if the vocabulary has no [MASK].
  std::optional<std::int32_t> mask_id() const { return mask_id_; }
  const tokenizer_options& options() const { return options_; }

 private:
  // A trie over code points in one open hash table: (node, code point) -> node.
  struct edge {
    std::uint64_t key;  // node << 21 | code point, plus 1 so that 0 is empty
    std::int32_t child;
  };
  static constexpr std::int32_t no_node = -1;

  std::int32_t child(std::int32_t node, char32_t c) const;
  std::int32_t add_child(std::int32_t node, char32_t c);
  void grow();
  void encode_plain(std::u32string_view text, std::int32_t first, std::vector<token>& out) const;
  void encode_word(std::u32string_view word, const std::int32_t* origin, std::vector<token>& out) const;

  tokenizer_options options_;
  std::vector<std::string> tokens_;
  std::vector<edge> edges_;  // a power of two of slots
  std::size_t used_edges_ = 0;
  std::vector<std::int32_t> node_ids_;   // per node: id of the token that ends there, or -1
  std::int32_t continuation_ = no_node;  // the node of "##", where all but a word's first piece begin
  std::int32_t pad_id_ = 0, unk_id_ = 0, cls_id_ = 0, sep_id_ = 0;
  std::optional<std::int32_t> mask_id_;
  std::vector<std::pair<std::u32string, std::int32_t>> special_;  // longest first
  std::u32string special_begin_;                                  // their first characters
};

}  // namespace bert_qa
