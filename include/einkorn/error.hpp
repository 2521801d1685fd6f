/// Errors: every check of a public function ends here.
///
/// With exceptions a failed check throws `einkorn::error`; without them (-fno-exceptions) it calls the
/// handler set by set_error_handler and then aborts. The text names function, argument and both values.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "types.hpp"

EINKORN_BEGIN_NAMESPACE

class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using error_handler = void (*)(const char* text);

namespace detail {
inline error_handler& current_error_handler() noexcept {
  static error_handler handler = nullptr;
  return handler;
}

[[noreturn]] inline void fail(const std::string& text) {
#if EINKORN_EXCEPTIONS
  throw error(text);
#else
  if (current_error_handler() != nullptr) {
    current_error_handler()(text.c_str());
  } else {
    std::fprintf(stderr, "einkorn: %s\n", text.c_str());
  }
  std::abort();
#endif
}

/// A number in a message, small ones with their exponent.
inline std::string shown(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  return text;
}

/// "gemm: b.rows 768 != a.cols 767"
[[noreturn]] inline void fail_unequal(const char* function, const char* left_name, index left,
                                      const char* right_name, index right) {
  fail(std::string(function) + ": " + left_name + " " + std::to_string(left) + " != " + right_name + " " +
       std::to_string(right));
}

inline void require_equal(const char* function, const char* left_name, index left, const char* right_name,
                          index right) {
  if (left != right) [[unlikely]]
    fail_unequal(function, left_name, left, right_name, right);
}

inline void require(bool condition, const char* function, const char* text) {
  if (!condition) [[unlikely]]
    fail(std::string(function) + ": " + text);
}

/// Sizes not negative, rows that do not overlap, no null data where there are elements.
inline void require_matrix(const char* function, const char* argument, const any_matrix& m) {
  const auto complain = [&](const std::string& what) {
    fail(std::string(function) + ": " + argument + what);
  };
  if (m.rows < 0 || m.cols < 0) [[unlikely]]
    complain(" has a negative size: " + std::to_string(m.rows) + " x " + std::to_string(m.cols));
  const index width = m.transposed ? m.rows : m.cols;
  const index height = m.transposed ? m.cols : m.rows;
  if (height > 1 && m.stride < width) [[unlikely]]
    complain(".stride " + std::to_string(m.stride) + " < " + std::to_string(width) + ", its row length");
  if (m.data == nullptr && m.rows > 0 && m.cols > 0) [[unlikely]]
    complain(".data is null for " + std::to_string(m.rows) + " x " + std::to_string(m.cols));
}

/// An output or a row-wise operand: require_matrix, and not transposed.
inline void require_plain(const char* function, const char* argument, const any_matrix& m) {
  require_matrix(function, argument, m);
  if (m.transposed) [[unlikely]]
    fail(std::string(function) + ": " + argument + " is transposed, and this argument may not be");
}

inline void require_same_shape(const char* function, const char* left_name, const any_matrix& left,
                               const char* right_name, const any_matrix& right) {
  if (left.rows != right.rows) [[unlikely]]
    fail_unequal(function, (std::string(left_name) + ".rows").c_str(), left.rows,
                 (std::string(right_name) + ".rows").c_str(), right.rows);
  if (left.cols != right.cols) [[unlikely]]
    fail_unequal(function, (std::string(left_name) + ".cols").c_str(), left.cols,
                 (std::string(right_name) + ".cols").c_str(), right.cols);
}
}  // namespace detail

/// Only asked when the library is compiled without exceptions. Returns the previous handler.
inline error_handler set_error_handler(error_handler handler) noexcept {
  const error_handler previous = detail::current_error_handler();
  detail::current_error_handler() = handler;
  return previous;
}

EINKORN_END_NAMESPACE
