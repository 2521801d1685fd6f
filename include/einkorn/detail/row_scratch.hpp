/// Scratch memory of the calling thread for partial sums: grows, and is kept for the next call.
#pragma once

#include "../allocation.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {

/// `count` floats, aligned to 64 bytes, whose contents are undefined; valid until the thread asks again.
inline float* row_scratch(index count) {
  thread_local workspace memory;
  return static_cast<float*>(memory.reserve(count * static_cast<index>(sizeof(float))));
}

}  // namespace detail
EINKORN_END_NAMESPACE
