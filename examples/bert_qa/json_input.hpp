#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

/// Reading JSON that somebody else wrote: every surprise is an input_error that names the file, the place in
/// it, what was expected and what was found.
namespace bert_qa {

/// A place in a JSON file, as `FILE: data[3].paragraphs[0].context`.
struct json_place {
  std::string file, path;

  json_place key(std::string_view name) const {
    return {file, path.empty() ? std::string(name) : path + "." + std::string(name)};
  }
  json_place element(std::size_t index) const { return {file, path + "[" + std::to_string(index) + "]"}; }
  std::string text() const { return path.empty() ? file : file + ": " + path; }
};

enum class json_kind { object, array, string, boolean, integer, number };

/// "an array", "a string" …
const char* describe(json_kind kind);
/// What a value is, for `found …`: "null", "a string", "the number 3" …
std::string describe(const nlohmann::json& value);
/// Text in quotes on one line, cut after 60 bytes, control characters as \xNN.
std::string quote(std::string_view text);

/// Parses the whole of `bytes`. At most 64 levels of nesting, so that hostile input cannot take the memory.
nlohmann::json parse_json(std::string_view bytes, const std::string& name);

void require_kind(const nlohmann::json& value, json_kind kind, const json_place& place);
/// The member `name` of an object, of that kind; an input_error if it is missing.
const nlohmann::json& require_member(const nlohmann::json& object, const char* name, json_kind kind,
                                     const json_place& place);

}  // namespace bert_qa
