#pragma once

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

/// What the tests of the text side share: reading tests/data.
inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string test_data(const std::string& name) {
  return read_bytes(std::string(EINKORN_TEST_DATA) + "/" + name);
}

inline nlohmann::json test_json(const std::string& name) { return nlohmann::json::parse(test_data(name)); }
