#include "unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

namespace bert_qa::unicode {
namespace {

struct code_range {
  char32_t first, last;
};

// The reference tokenizer (PyPI tokenizers 0.23) takes categories from Unicode 8, combining classes from
// Unicode 9 and lower case from Unicode 17; utf8proc 2.8 has Unicode 15. The tables below are the
// differences, found by comparing all 1,112,064 scalar values, so that the ids are equal on text in any
// script.

// Format characters (Cf) since Unicode 9.
constexpr code_range not_removed[] = {{0x890, 0x891}, {0x8e2, 0x8e2}, {0x110cd, 0x110cd}, {0x13430, 0x1343f}};

// Nonspacing marks (Mn) since Unicode 9, which therefore stay when accents are stripped.
constexpr code_range not_mark[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8e1},     {0x9fe, 0x9fe},     {0xafa, 0xaff},
    {0xb55, 0xb55},     {0xc04, 0xc04},     {0xc3c, 0xc3c},     {0xd00, 0xd00},     {0xd3b, 0xd3c},
    {0xd81, 0xd81},     {0xeba, 0xeba},     {0xece, 0xece},     {0x180f, 0x180f},   {0x1885, 0x1886},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfb},   {0xa82c, 0xa82c},   {0xa8c5, 0xa8c5},   {0xa8ff, 0xa8ff},
    {0xa9bd, 0xa9bd},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x11073, 0x11074}, {0x110c2, 0x110c2}, {0x111c9, 0x111c9},
    {0x111cf, 0x111cf}, {0x1123e, 0x1123e}, {0x11241, 0x11241}, {0x1133b, 0x1133b}, {0x11438, 0x1143f},
    {0x11442, 0x11444}, {0x11446, 0x11446}, {0x1145e, 0x1145e}, {0x1182f, 0x11837}, {0x11839, 0x1183a},
    {0x1193b, 0x1193c}, {0x1193e, 0x1193e}, {0x11943, 0x11943}, {0x119d4, 0x119d7}, {0x119da, 0x119db},
    {0x119e0, 0x119e0}, {0x11a01, 0x11a0a}, {0x11a33, 0x11a38}, {0x11a3b, 0x11a3e}, {0x11a47, 0x11a47},
    {0x11a51, 0x11a56}, {0x11a59, 0x11a5b}, {0x11a8a, 0x11a96}, {0x11a98, 0x11a99}, {0x11c30, 0x11c36},
    {0x11c38, 0x11c3d}, {0x11c3f, 0x11c3f}, {0x11c92, 0x11ca7}, {0x11caa, 0x11cb0}, {0x11cb2, 0x11cb3},
    {0x11cb5, 0x11cb6}, {0x11d31, 0x11d36}, {0x11d3a, 0x11d3a}, {0x11d3c, 0x11d3d}, {0x11d3f, 0x11d45},
    {0x11d47, 0x11d47}, {0x11d90, 0x11d91}, {0x11d95, 0x11d95}, {0x11d97, 0x11d97}, {0x11ef3, 0x11ef4},
    {0x11f00, 0x11f01}, {0x11f36, 0x11f3a}, {0x11f40, 0x11f40}, {0x11f42, 0x11f42}, {0x13440, 0x13440},
    {0x13447, 0x13455}, {0x16f4f, 0x16f4f}, {0x16fe4, 0x16fe4}, {0x1cf00, 0x1cf2d}, {0x1cf30, 0x1cf46},
    {0x1e000, 0x1e006}, {0x1e008, 0x1e018}, {0x1e01b, 0x1e021}, {0x1e023, 0x1e024}, {0x1e026, 0x1e02a},
    {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    {0x1e944, 0x1e94a}};

// Punctuation since Unicode 9.
constexpr code_range not_punctuation[] = {
    {0x61d, 0x61d},     {0x9fd, 0x9fd},     {0xa76, 0xa76},     {0xc77, 0xc77},     {0xc84, 0xc84},
    {0x1b7d, 0x1b7e},   {0x2e43, 0x2e4f},   {0x2e52, 0x2e5d},   {0x10ead, 0x10ead}, {0x10f55, 0x10f59},
    {0x10f86, 0x10f89}, {0x1144b, 0x1144f}, {0x1145a, 0x1145b}, {0x1145d, 0x1145d}, {0x11660, 0x1166c},
    {0x116b9, 0x116b9}, {0x1183b, 0x1183b}, {0x11944, 0x11946}, {0x119e2, 0x119e2}, {0x11a3f, 0x11a46},
    {0x11a9a, 0x11a9c}, {0x11a9e, 0x11aa2}, {0x11b00, 0x11b09}, {0x11c41, 0x11c45}, {0x11c70, 0x11c71},
    {0x11ef7, 0x11ef8}, {0x11f43, 0x11f4f}, {0x11fff, 0x11fff}, {0x12ff1, 0x12ff2}, {0x16e97, 0x16e9a},
    {0x16fe2, 0x16fe2}, {0x1e95e, 0x1e95f}};

// Combining classes since Unicode 10: these characters count as starters.
constexpr code_range not_reordered[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}};

// Other_Uppercase and Other_Lowercase: ª, º, Roman numerals, letters in circles and squares.
constexpr code_range other_cased[] = {{0xaa, 0xaa},      {0xba, 0xba},       {0x2160, 0x217f},
                                      {0x24b6, 0x24e9},  {0x1f130, 0x1f149}, {0x1f150, 0x1f169},
                                      {0x1f170, 0x1f189}};

// Word_Break MidLetter, MidNumLet and Single_Quote: full stop, colon, apostrophe and their like.
constexpr code_range inside_words[] = {
    {0x27, 0x27},     {0x2e, 0x2e},     {0x3a, 0x3a},     {0xb7, 0xb7},
    {0x387, 0x387},   {0x55f, 0x55f},   {0x5f4, 0x5f4},   {0x2018, 0x2019},
    {0x2024, 0x2024}, {0x2027, 0x2027}, {0xfe13, 0xfe13}, {0xfe52, 0xfe52},
    {0xfe55, 0xfe55}, {0xff07, 0xff07}, {0xff0e, 0xff0e}, {0xff1a, 0xff1a}};

template <std::size_t Count>
bool contains(const code_range (&table)[Count], char32_t c) {
  const code_range* at =
      std::upper_bound(std::begin(table), std::end(table), c,
                       [](char32_t value, const code_range& range) { return value < range.first; });
  return at != std::begin(table) && c <= (at - 1)->last;
}

// Lower case since Unicode 16: a letter, and its distance to the small one.
struct case_range {
  char32_t first, last;
  int distance;
};
constexpr case_range late_lower[] = {
    {0x1c89, 0x1c89, 1},      {0xa7cb, 0xa7cb, 0x264 - 0xa7cb},
    {0xa7cc, 0xa7cc, 1},      {0xa7ce, 0xa7ce, 1},
    {0xa7d2, 0xa7d2, 1},      {0xa7d4, 0xa7d4, 1},
    {0xa7da, 0xa7da, 1},      {0xa7dc, 0xa7dc, 0x19b - 0xa7dc},
    {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 0x1b},
};

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

// Decodes one code point at `at` (at < text.size()); sets size to its bytes.
char32_t decode_one(std::string_view text, std::size_t at, std::size_t& size) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80) {
    size = 1;
    return byte;
  }
  utf8proc_int32_t c = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at;
  const utf8proc_ssize_t used = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - at), &c);
  if (used <= 0) {
    size = 1;
    return 0xfffd;
  }
  size = static_cast<std::size_t>(used);
  return static_cast<char32_t>(c);
}

}  // namespace

std::u32string decode(std::string_view utf8) {
  std::u32string out;
  out.reserve(utf8.size());
  for (std::size_t at = 0, size = 0; at < utf8.size(); at += size) out.push_back(decode_one(utf8, at, size));
  return out;
}

void append(std::string& utf8, char32_t c) {
  if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) c = 0xfffd;
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  utf8.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
}

std::int64_t length(std::string_view utf8) {
  std::int64_t count = 0;
  for (std::size_t at = 0, size = 0; at < utf8.size(); at += size, ++count) decode_one(utf8, at, size);
  return count;
}

std::string_view slice(std::string_view utf8, std::int64_t begin, std::int64_t end) {
  std::size_t at = 0, size = 0, first = utf8.size();
  std::int64_t count = 0;
  for (; at < utf8.size() && count < end; at += size, ++count) {
    if (count == begin) first = at;
    decode_one(utf8, at, size);
  }
  if (begin <= 0) first = 0;
  return first < at ? utf8.substr(first, at - first) : std::string_view();
}

bool is_valid(std::string_view utf8) {
  for (std::size_t at = 0, size = 0; at < utf8.size(); at += size) {
    if (decode_one(utf8, at, size) == 0xfffd && size == 1) return false;
  }
  return true;
}

bool is_removed(char32_t c) {
  if (c < 0x80) return (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f;
  if (c == 0xfffd) return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
      return !contains(not_removed, c);
    default:
      return false;
  }
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  if (c == 0x85) return true;
  const utf8proc_category_t kind = category(c);
  return kind == UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_ZL || kind == UTF8PROC_CATEGORY_ZP;
}

bool is_cjk(char32_t c) {
  // U+2B920 and not U+2B820: a slip in the reference tokenizer that its ids depend on.
  static constexpr code_range ranges[] = {{0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xf900, 0xfaff},
                                          {0x20000, 0x2a6df}, {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f},
                                          {0x2b920, 0x2ceaf}, {0x2f800, 0x2fa1f}};
  return c >= 0x3400 && contains(ranges, c);
}

bool is_nonspacing_mark(char32_t c) {
  if (c < 0x300) return false;
  if (c == 0x1734) return true;  // Mn until Unicode 14
  return category(c) == UTF8PROC_CATEGORY_MN && !contains(not_mark, c);
}

bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  if (c == 0x166d || c == 0x111c9) return true;  // punctuation until Unicode 12 and 11
  const utf8proc_category_t kind = category(c);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO && !contains(not_punctuation, c);
}

bool is_word(char32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  const utf8proc_category_t kind = category(c);
  return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO) ||
         (kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO);
}

int lower(char32_t c, char32_t out[2]) {
  if (c < 0x80) {
    out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
    return 1;
  }
  if (c == 0x130) {  // the only character whose small form is two: i and a dot above
    out[0] = 'i';
    out[1] = 0x307;
    return 2;
  }
  out[0] = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
  for (const case_range& range : late_lower) {
    if (c >= range.first && c <= range.last)
      out[0] = static_cast<char32_t>(static_cast<int>(c) + range.distance);
  }
  return 1;
}

std::u32string lower(std::u32string_view text) {
  // Final sigma: after a cased letter and before none, whatever case-ignorable characters lie between.
  const auto cased = [](char32_t c) {
    const utf8proc_category_t kind = category(c);
    return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT ||
           contains(other_cased, c);
  };
  const auto ignorable = [](char32_t c) {
    const utf8proc_category_t kind = category(c);
    return contains(inside_words, c) || kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_ME ||
           kind == UTF8PROC_CATEGORY_CF || kind == UTF8PROC_CATEGORY_LM || kind == UTF8PROC_CATEGORY_SK;
  };
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == 0x3a3) {
      std::size_t before = i, after = i + 1;
      while (before > 0 && ignorable(text[before - 1])) --before;
      while (after < text.size() && ignorable(text[after])) ++after;
      const bool final =
          before > 0 && cased(text[before - 1]) && !(after < text.size() && cased(text[after]));
      out.push_back(final ? 0x3c2 : 0x3c3);
      continue;
    }
    char32_t small[2];
    const int count = lower(text[i], small);
    out.append(small, static_cast<std::size_t>(count));
  }
  return out;
}

int decompose(char32_t c, decomposed out[8]) {
  const auto combining_class = [](char32_t d) -> std::uint8_t {
    if (d < 0x300) return 0;
    const auto value =
        static_cast<std::uint8_t>(utf8proc_get_property(static_cast<utf8proc_int32_t>(d))->combining_class);
    return value != 0 && contains(not_reordered, d) ? std::uint8_t{0} : value;
  };
  utf8proc_int32_t parts[8];
  utf8proc_ssize_t count = 0;
  if (c >= 0xc0 && c != 0x11938) {  // U+11938 decomposes since Unicode 13 only
    int boundary = 0;
    count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 8, UTF8PROC_DECOMPOSE, &boundary);
  }
  if (count < 1 || count > 8) {
    out[0] = {c, combining_class(c), false};
    return 1;
  }
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    const auto part = static_cast<char32_t>(parts[i]);
    out[i] = {part, combining_class(part), i > 0};
  }
  return static_cast<int>(count);
}

}  // namespace bert_qa::unicode
