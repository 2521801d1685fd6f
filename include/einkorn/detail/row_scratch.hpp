/// Scratch memory of the calling thread for partial sums: grows, and is kept for the next call.
#pragma once

#include <memory>
#include <new>

#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {

/// `count` floats, aligned to 64 bytes, whose contents are undefined; valid until the thread asks again.
inline float* row_scratch(index count) {
  struct release {
    void operator()(float* p) const noexcept { ::operator delete (p, std::align_val_t{64}); }
  };
  thread_local std::unique_ptr<float, release> memory;
  thread_local index capacity = 0;
  if (count > capacity) {
    memory.reset();
    capacity = 0;
    memory.reset(static_cast<float*>(
        ::operator new (static_cast<std::size_t>(count) * sizeof(float), std::align_val_t{64})));
    capacity = count;
  }
  return memory.get();
}

}  // namespace detail
EINKORN_END_NAMESPACE
