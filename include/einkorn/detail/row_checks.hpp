/// Checks of the row-wise operations: element types, vectors beside the matrices, and overlap.
#pragma once

#include <span>
#include <string>

#include "../error.hpp"
#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {

/// A plain matrix of f32, bf16 or fp16.
inline void require_real(const char* function, const char* argument, const any_matrix& m) {
  require_plain(function, argument, m);
  if (m.type != dtype::f32 && m.type != dtype::bf16 && m.type != dtype::fp16) [[unlikely]]
    fail(std::string(function) + ": " + argument + " is " + name(m.type) + ", expected f32, bf16 or fp16");
}

inline void require_f32(const char* function, const char* argument, const any_matrix& m) {
  require_plain(function, argument, m);
  if (m.type != dtype::f32) [[unlikely]]
    fail(std::string(function) + ": " + argument + " is " + name(m.type) + ", expected f32");
}

template <class T>
inline void require_size(const char* function, const char* name, std::span<T> values,
                         const char* expected_name, index expected) {
  require_equal(function, name, static_cast<index>(values.size()), expected_name, expected);
}

/// The output may be the very same matrix as the input, element on element, or share nothing with it.
inline void require_same_or_apart(const char* function, const char* output_name, const any_matrix& output,
                                  const char* input_name, const any_matrix& input) {
  if (output.rows == 0 || output.cols == 0 || input.rows == 0 || input.cols == 0) return;
  const auto first = [](const any_matrix& m) { return reinterpret_cast<std::uintptr_t>(m.data); };
  const auto bytes = [](const any_matrix& m, index elements) {
    return static_cast<std::uintptr_t>(elements * size_of(m.type));
  };
  const auto last = [&](const any_matrix& m) {
    return first(m) + bytes(m, (m.rows - 1) * m.stride + m.cols);
  };
  if (last(output) <= first(input) || last(input) <= first(output)) return;
  const bool one_row = output.rows == 1 && input.rows == 1;  // whose strides mean nothing
  const bool same_rows = !one_row && bytes(output, output.stride) == bytes(input, input.stride);
  if ((same_rows || one_row) && first(output) == first(input) && output.type == input.type) return;
  if (same_rows) {  // columns side by side in the same rows
    const std::uintptr_t row = bytes(output, output.stride);
    const std::uintptr_t ahead = first(output) > first(input) ? (first(output) - first(input)) % row
                                                              : row - (first(input) - first(output)) % row;
    if (ahead >= bytes(input, input.cols) && ahead + bytes(output, output.cols) <= row) return;
  }
  fail(std::string(function) + ": " + output_name + " overlaps " + input_name +
       " without being the same matrix");
}

}  // namespace detail
EINKORN_END_NAMESPACE
