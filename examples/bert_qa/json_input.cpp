#include "json_input.hpp"

#include <algorithm>

#include "input_error.hpp"

namespace bert_qa {
namespace {

constexpr int max_depth = 64;

void limit_depth(std::string_view bytes, const std::string& name) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_depth) {
        throw input_error(name, "JSON nested at most " + std::to_string(max_depth) + " levels deep",
                          "more at byte " + std::to_string(i));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

}  // namespace

const char* describe(json_kind kind) {
  switch (kind) {
    case json_kind::object:
      return "an object";
    case json_kind::array:
      return "an array";
    case json_kind::string:
      return "a string";
    case json_kind::boolean:
      return "true or false";
    case json_kind::integer:
      return "an integer";
    case json_kind::number:
      return "a number";
  }
  return "";
}

std::string quote(std::string_view text) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out = "\"";
  std::size_t size = std::min<std::size_t>(text.size(), 60);
  // not in the middle of a character
  while (size < text.size() && size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
  for (const char c : text.substr(0, size)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    } else {
      out += c;
    }
  }
  return out + (size < text.size() ? "…\"" : "\"");
}

std::string describe(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::object:
      return "an object";
    case nlohmann::json::value_t::array:
      return "an array";
    case nlohmann::json::value_t::string:
      return quote(value.get_ref<const std::string&>());
    case nlohmann::json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    case nlohmann::json::value_t::null:
      return "null";
    default:
      return value.dump();
  }
}

nlohmann::json parse_json(std::string_view bytes, const std::string& name) {
  limit_depth(bytes, name);
  if (bytes.empty()) throw input_error(name, "JSON", "an empty file");
  try {
    return nlohmann::json::parse(bytes.begin(), bytes.end());
  } catch (const nlohmann::json::parse_error& error) {
    if (error.byte > bytes.size())
      throw input_error(name, "JSON", "its end after " + std::to_string(bytes.size()) + " bytes");
    const std::string_view before = bytes.substr(0, error.byte > 0 ? error.byte - 1 : 0);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    throw input_error(
        name, "JSON in UTF-8",
        "a syntax error in line " + std::to_string(line) + " (byte " + std::to_string(error.byte) + ")");
  } catch (const nlohmann::json::exception&) {  // a number out of range
    throw input_error(name, "JSON", "a number out of range");
  }
}

void require_kind(const nlohmann::json& value, json_kind kind, const json_place& place) {
  const bool right = kind == json_kind::object    ? value.is_object()
                     : kind == json_kind::array   ? value.is_array()
                     : kind == json_kind::string  ? value.is_string()
                     : kind == json_kind::boolean ? value.is_boolean()
                     : kind == json_kind::integer ? value.is_number_integer()
                                                  : value.is_number();
  if (!right) throw input_error(place.text(), describe(kind), describe(value));
}

const nlohmann::json& require_member(const nlohmann::json& object, const char* name, json_kind kind,
                                     const json_place& place) {
  require_kind(object, json_kind::object, place);
  const auto at = object.find(name);
  if (at == object.end()) throw input_error(place.text(), std::string("the key \"") + name + "\"", "none");
  require_kind(*at, kind, place.key(name));
  return *at;
}

}  // namespace bert_qa
