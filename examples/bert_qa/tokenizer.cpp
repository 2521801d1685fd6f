#include "tokenizer.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "input_error.hpp"
#include "json_input.hpp"
#include "unicode.hpp"

namespace bert_qa {
namespace {

constexpr std::size_t max_word_length = 100;
constexpr std::size_t max_line = 4096;  // bytes; a longer one is of another file than a vocabulary

std::size_t slot_of(std::uint64_t key, std::size_t mask) {
  return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15u) >> 32) & mask;
}

std::uint64_t key_of(std::int32_t node, char32_t c) {
  return (static_cast<std::uint64_t>(node) << 21 | static_cast<std::uint64_t>(c)) + 1;
}

// A text while it is being cleaned: each code point with the index of the character it came from. All
// steps of the tokenizer keep one origin per code point, so a token's offsets are those of its two ends.
struct traced_text {
  std::u32string c;
  std::vector<std::int32_t> origin;

  void add(char32_t value, std::int32_t from) {
    c.push_back(value);
    origin.push_back(from);
  }
};

// Canonical decomposition with reordering, then nonspacing marks dropped.
traced_text strip_accents(const traced_text& in) {
  std::vector<unicode::decomposed> parts;
  parts.reserve(in.c.size() + 16);
  for (const char32_t c : in.c) {
    unicode::decomposed part[8];
    const int count = unicode::decompose(c, part);
    parts.insert(parts.end(), part, part + count);
  }
  for (std::size_t begin = 0; begin < parts.size(); ++begin) {
    if (parts[begin].combining_class == 0) continue;
    std::size_t end = begin;
    while (end < parts.size() && parts[end].combining_class != 0) ++end;
    std::stable_sort(parts.begin() + static_cast<std::ptrdiff_t>(begin),
                     parts.begin() + static_cast<std::ptrdiff_t>(end),
                     [](const auto& a, const auto& b) { return a.combining_class < b.combining_class; });
    begin = end - 1;
  }
  // The reference counts origins along the reordered text: whatever is not an insertion takes the next one.
  traced_text out;
  out.c.reserve(parts.size());
  out.origin.reserve(parts.size());
  std::size_t next = 0;
  for (const unicode::decomposed& part : parts) {
    if (!part.inserted) ++next;
    if (!unicode::is_nonspacing_mark(part.c)) out.add(part.c, in.origin[next > 0 ? next - 1 : 0]);
  }
  return out;
}

}  // namespace

tokenizer_options parse_tokenizer_config(std::string_view bytes, const std::string& name) {
  const nlohmann::json config = parse_json(bytes, name);
  const json_place root{name, ""};
  require_kind(config, json_kind::object, root);
  const auto find = [&](const char* key) {
    const auto at = config.find(key);
    return at == config.end() || at->is_null() ? nullptr : &*at;
  };
  tokenizer_options options;
  const auto flag = [&](const char* key, bool otherwise) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return otherwise;
    require_kind(*value, json_kind::boolean, root.key(key));
    return value->get<bool>();
  };
  options.do_lower_case = flag("do_lower_case", true);
  options.tokenize_chinese_chars = flag("tokenize_chinese_chars", true);
  if (find("strip_accents") != nullptr) options.strip_accents = flag("strip_accents", true);
  const auto text = [&](const char* key, std::string& into) {
    const nlohmann::json* value = find(key);
    json_place place = root.key(key);
    if (value == nullptr) return;
    if (value->is_object()) {  // an AddedToken: {"content": "[UNK]", …}
      value = &require_member(*value, "content", json_kind::string, place);
      place = place.key("content");
    }
    require_kind(*value, json_kind::string, place);
    into = value->get<std::string>();
    if (into.empty()) throw input_error(place.text(), "a token", "an empty string");
  };
  text("unk_token", options.unk_token);
  text("sep_token", options.sep_token);
  text("pad_token", options.pad_token);
  text("cls_token", options.cls_token);
  text("mask_token", options.mask_token);
  if (const nlohmann::json* most = find("model_max_length")) {
    const json_place place = root.key("model_max_length");
    require_kind(*most, json_kind::number, place);
    if (!(most->get<double>() >= 1)) throw input_error(place.text(), "a number from 1", describe(*most));
    if (most->get<double>() <= INT32_MAX) options.max_length = static_cast<std::int64_t>(most->get<double>());
  }
  std::string kind = "BertTokenizer";
  text("tokenizer_class", kind);
  const std::string_view name_of_kind =
      std::string_view(kind).substr(0, kind.size() - (kind.ends_with("Fast") ? 4 : 0));
  options.from_tokenizer_json = name_of_kind == "PreTrainedTokenizer" || name_of_kind == "TokenizersBackend";
  if (name_of_kind != "BertTokenizer" && name_of_kind != "DistilBertTokenizer" &&
      name_of_kind != "ElectraTokenizer" && !options.from_tokenizer_json) {
    throw input_error(root.key("tokenizer_class").text(), "BertTokenizer", quote(kind));
  }
  return options;
}

void parse_tokenizer_json(std::string_view bytes, const std::string& name, tokenizer_options& options) {
  const nlohmann::json file = parse_json(bytes, name);
  const json_place root{name, ""};
  const auto part = [&](const char* key, const char* type) -> const nlohmann::json& {
    const nlohmann::json& found = require_member(file, key, json_kind::object, root);
    const auto& kind = require_member(found, "type", json_kind::string, root.key(key));
    if (kind != type) throw input_error(root.key(key).key("type").text(), quote(type), describe(kind));
    return found;
  };
  const nlohmann::json& normalizer = part("normalizer", "BertNormalizer");
  const auto flag = [&](const char* key) {
    return require_member(normalizer, key, json_kind::boolean, root.key("normalizer")).get<bool>();
  };
  options.clean_text = flag("clean_text");
  options.tokenize_chinese_chars = flag("handle_chinese_chars");
  options.do_lower_case = flag("lowercase");
  options.strip_accents.reset();
  if (const auto at = normalizer.find("strip_accents"); at != normalizer.end() && !at->is_null())
    options.strip_accents = flag("strip_accents");
  part("pre_tokenizer", "BertPreTokenizer");

  const nlohmann::json& model = part("model", "WordPiece");
  const auto same = [&](const char* key, const nlohmann::json& expected) {
    const auto at = model.find(key);
    if (at == model.end() || *at != expected)
      throw input_error(root.key("model").key(key).text(), describe(expected),
                        at == model.end() ? "none" : describe(*at));
  };
  same("continuing_subword_prefix", "##");
  same("max_input_chars_per_word", max_word_length);
  same("unk_token", options.unk_token);
}

tokenizer::tokenizer(std::string_view vocabulary, const tokenizer_options& options, const std::string& name)
    : options_(options), edges_(1024), node_ids_(1, -1) {
  for (std::size_t at = 0; at < vocabulary.size();) {
    const std::size_t end = std::min(vocabulary.find('\n', at), vocabulary.size());
    std::string_view line = vocabulary.substr(at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto id = static_cast<std::int32_t>(tokens_.size());
    if (line.size() > max_line)
      throw input_error(name + " line " + std::to_string(id + 1),
                        "a token of at most " + std::to_string(max_line) + " bytes",
                        std::to_string(line.size()));
    if (!unicode::is_valid(line)) {
      throw input_error(name + " line " + std::to_string(id + 1), "UTF-8", "bytes that are not");
    }
    tokens_.emplace_back(line);
    std::int32_t node = 0;
    for (const char32_t c : unicode::decode(line)) node = add_child(node, c);
    if (node != 0) node_ids_[static_cast<std::size_t>(node)] = id;
  }
  const auto required = [&](const std::string& token) {
    const auto id = to_id(token);
    if (!id) {
      throw input_error(name, "a vocabulary with " + token,
                        std::to_string(tokens_.size()) + " tokens without it");
    }
    return *id;
  };
  pad_id_ = required(options.pad_token);
  unk_id_ = required(options.unk_token);
  cls_id_ = required(options.cls_token);
  sep_id_ = required(options.sep_token);
  mask_id_ = to_id(options.mask_token);
  for (const std::string* token : {&options.pad_token, &options.unk_token, &options.cls_token,
                                   &options.sep_token, &options.mask_token}) {
    const auto id = to_id(*token);
    if (id) special_.emplace_back(unicode::decode(*token), *id);
  }
  // where two begin at one place, the longer
  std::stable_sort(special_.begin(), special_.end(),
                   [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  for (const auto& [token, id] : special_) special_begin_ += token[0];
  if (const std::int32_t sharp = child(0, '#'); sharp != no_node) continuation_ = child(sharp, '#');
}

std::int32_t tokenizer::child(std::int32_t node, char32_t c) const {
  const std::size_t mask = edges_.size() - 1;
  const std::uint64_t key = key_of(node, c);
  for (std::size_t slot = slot_of(key, mask);; slot = (slot + 1) & mask) {
    if (edges_[slot].key == key) return edges_[slot].child;
    if (edges_[slot].key == 0) return no_node;
  }
}

std::int32_t tokenizer::add_child(std::int32_t node, char32_t c) {
  if (const std::int32_t known = child(node, c); known != no_node) return known;
  if (2 * (used_edges_ + 1) > edges_.size()) grow();
  const std::size_t mask = edges_.size() - 1;
  const auto added = static_cast<std::int32_t>(node_ids_.size());
  std::size_t slot = slot_of(key_of(node, c), mask);
  while (edges_[slot].key != 0) slot = (slot + 1) & mask;
  edges_[slot] = {key_of(node, c), added};
  ++used_edges_;
  node_ids_.push_back(-1);
  return added;
}

void tokenizer::grow() {
  std::vector<edge> larger(2 * edges_.size());
  const std::size_t mask = larger.size() - 1;
  for (const edge& old : edges_) {
    if (old.key == 0) continue;
    std::size_t slot = slot_of(old.key, mask);
    while (larger[slot].key != 0) slot = (slot + 1) & mask;
    larger[slot] = old;
  }
  edges_ = std::move(larger);
}

std::optional<std::int32_t> tokenizer::to_id(std::string_view token) const {
  if (!unicode::is_valid(token)) return std::nullopt;
  std::int32_t node = 0;
  for (const char32_t c : unicode::decode(token)) {
    node = child(node, c);
    if (node == no_node) return std::nullopt;
  }
  const std::int32_t id = node_ids_[static_cast<std::size_t>(node)];
  return id < 0 ? std::nullopt : std::optional(id);
}

std::vector<token> tokenizer::encode(std::string_view utf8) const {
  const std::u32string text = unicode::decode(utf8);
  const std::u32string_view all = text;
  std::vector<token> out;
  out.reserve(text.size() / 4 + 4);
  std::size_t plain = 0;  // where the text begins that has not been encoded yet
  for (std::size_t at = 0; (at = all.find_first_of(special_begin_, at)) != std::u32string_view::npos;) {
    const auto special = std::find_if(special_.begin(), special_.end(), [&](const auto& candidate) {
      return all.substr(at, candidate.first.size()) == candidate.first;
    });
    if (special == special_.end()) {
      ++at;
      continue;
    }
    encode_plain(all.substr(plain, at - plain), static_cast<std::int32_t>(plain), out);
    const std::size_t end = at + special->first.size();
    out.push_back({special->second, static_cast<std::int32_t>(at), static_cast<std::int32_t>(end)});
    plain = at = end;
  }
  encode_plain(all.substr(plain), static_cast<std::int32_t>(plain), out);
  return out;
}

void tokenizer::encode_plain(std::u32string_view text, std::int32_t first, std::vector<token>& out) const {
  traced_text clean;
  clean.c.reserve(text.size() + 16);
  clean.origin.reserve(text.size() + 16);
  bool ascii = true;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char32_t c = text[i];
    const auto from = first + static_cast<std::int32_t>(i);
    ascii = ascii && c < 0x80;
    if (options_.clean_text && unicode::is_removed(c)) continue;
    if (options_.clean_text && unicode::is_white_space(c)) {
      clean.add(' ', from);
    } else if (options_.tokenize_chinese_chars && unicode::is_cjk(c)) {
      clean.add(' ', from);
      clean.add(c, from);
      clean.add(' ', from);
    } else {
      clean.add(c, from);
    }
  }
  if (!ascii && options_.strip_accents.value_or(options_.do_lower_case)) clean = strip_accents(clean);
  if (options_.do_lower_case) {
    if (ascii) {
      for (char32_t& c : clean.c) c = c >= 'A' && c <= 'Z' ? c + 32 : c;
    } else {
      traced_text small;
      for (std::size_t i = 0; i < clean.c.size(); ++i) {
        char32_t lower[2];
        const int count = unicode::lower(clean.c[i], lower);
        for (int k = 0; k < count; ++k) small.add(lower[k], clean.origin[i]);
      }
      clean = std::move(small);
    }
  }
  const std::u32string_view all = clean.c;
  const auto blank = [&](char32_t c) {
    return c == ' ' || (!options_.clean_text && unicode::is_white_space(c));
  };
  for (std::size_t at = 0; at < all.size();) {
    std::size_t end = at;
    while (end < all.size() && !blank(all[end]) && !unicode::is_punctuation(all[end])) ++end;
    if (end > at) encode_word(all.substr(at, end - at), clean.origin.data() + at, out);
    if (end < all.size() && !blank(all[end])) encode_word(all.substr(end, 1), clean.origin.data() + end, out);
    at = end + 1;
  }
}

void tokenizer::encode_word(std::u32string_view word, const std::int32_t* origin,
                            std::vector<token>& out) const {
  const std::size_t before = out.size();
  std::size_t begin = word.size() > max_word_length ? word.size() + 1 : 0;
  while (begin < word.size()) {
    std::int32_t node = begin == 0 ? 0 : continuation_;
    std::int32_t id = -1;
    std::size_t end = begin;
    for (std::size_t at = begin; at < word.size() && node != no_node; ++at) {
      node = child(node, word[at]);
      if (node != no_node && node_ids_[static_cast<std::size_t>(node)] >= 0) {
        id = node_ids_[static_cast<std::size_t>(node)];
        end = at + 1;
      }
    }
    if (id < 0) break;
    out.push_back({id, origin[begin], origin[end - 1] + 1});
    begin = end;
  }
  if (begin != word.size()) {
    out.resize(before);
    out.push_back({unk_id_, origin[0], origin[word.size() - 1] + 1});
  }
}

}  // namespace bert_qa
