#pragma once

#include <stdexcept>
#include <string>

namespace bert_qa {

/// What the user gave is wrong: a file, a flag, a folder. The text is one line, `FILE: expected X, found Y`.
/// Parsers throw it; only main prints it, and ends with exit code 2.
struct input_error : std::runtime_error {
  using std::runtime_error::runtime_error;

  input_error(const std::string& where, const std::string& expected, const std::string& found)
      : std::runtime_error(where + ": expected " + expected + ", found " + found) {}
};

}  // namespace bert_qa
