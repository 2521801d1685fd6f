#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// Code points, and the character classes that BERT's tokenizer asks about.
namespace bert_qa::unicode {

/// UTF-8 to code points. A byte that begins no valid sequence becomes one U+FFFD: nothing throws, and every
/// byte of valid text counts as Unicode counts it.
std::u32string decode(std::string_view utf8);

/// Appends one code point as UTF-8; surrogates and numbers above U+10FFFF become U+FFFD.
void append(std::string& utf8, char32_t c);

/// Number of code points, counted as decode() does.
std::int64_t length(std::string_view utf8);

/// The bytes of the code points [begin, end), both clamped to the text.
std::string_view slice(std::string_view utf8, std::int64_t begin, std::int64_t end);

/// Whether the bytes are well-formed UTF-8.
bool is_valid(std::string_view utf8);

/// What the cleaning step drops: NUL, U+FFFD, Cc, Cf and Co, but not tab, line feed, carriage return.
bool is_removed(char32_t c);
/// White_Space of the Unicode character database.
bool is_white_space(char32_t c);
/// Han ideographs, in the ranges of BERT's tokenizer: each is a word of its own.
bool is_cjk(char32_t c);
/// Nonspacing mark (Mn): what stripping accents takes away after decomposition.
bool is_nonspacing_mark(char32_t c);
/// ASCII punctuation and symbols, and the categories P*.
bool is_punctuation(char32_t c);
/// Letters and numbers (L*, N*) and the underscore: \w of a Python regular expression.
bool is_word(char32_t c);
/// Full lower case without context; writes one or two code points to out and returns how many.
int lower(char32_t c, char32_t out[2]);
/// Lower case as Python's str.lower, with the final sigma.
std::u32string lower(std::u32string_view text);

/// One code point of the canonical decomposition. `inserted` marks all but the first that a character gives.
struct decomposed {
  char32_t c;
  std::uint8_t combining_class;
  bool inserted;
};
/// Canonical decomposition of one character into out; returns how many (at most 4 in any Unicode version).
int decompose(char32_t c, decomposed out[8]);

}  // namespace bert_qa::unicode
