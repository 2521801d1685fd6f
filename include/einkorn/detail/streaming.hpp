/// Whether what a call writes goes past the caches.
#pragma once

#include <initializer_list>

#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {

/// A call that reads and writes more bytes than this, the size of the last-level cache, streams its results:
/// the first of them would be gone from it before the call ends, and an ordinary store first reads the line
/// that it overwrites. With one matrix in and one out that is a third of the traffic. No bit of a result
/// depends on it; tests set it to have both kinds of store.
inline index& streaming_bytes();

inline bool streams(std::initializer_list<any_matrix> matrices) {
  index bytes = 0;
  for (const any_matrix& m : matrices) bytes += m.rows * m.cols * size_of(m.type);
  return bytes > streaming_bytes();
}

/// Whether `out` is none of the inputs: in place there is no line to read first, and nothing to gain.
inline bool apart(const any_matrix& out, std::initializer_list<any_matrix> inputs) {
  for (const any_matrix& m : inputs)
    if (m.data == out.data) return false;
  return true;
}

}  // namespace detail
EINKORN_END_NAMESPACE

#include "../isa.hpp"  // after what public functions need: header-only, it brings in the kernels and them

EINKORN_BEGIN_NAMESPACE
namespace detail {
inline index& streaming_bytes() {
  static index bytes = caches().l3;
  return bytes;
}
}  // namespace detail
EINKORN_END_NAMESPACE
