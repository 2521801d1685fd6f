/// The one place where the library takes memory: packed matrices and workspaces.
#pragma once

#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "error.hpp"
#include "types.hpp"

EINKORN_BEGIN_NAMESPACE

/// allocate(context, bytes) returns memory aligned to 64 bytes, or null when there is none; release gets back
/// what allocate returned. Both may be called from any thread.
struct allocator {
  void* context = nullptr;
  void* (*allocate)(void* context, index bytes) = nullptr;
  void (*release)(void* context, void* memory, index bytes) = nullptr;
};

namespace detail {
/// From 2 MiB on in huge pages, where the kernel gives them on request: packed weights are streamed, and the
/// hardware prefetcher stops at the end of a page (5 % of a GEMM whose B lies in L3).
inline void* aligned_allocate(void*, index bytes) {
  constexpr index huge = index{2} << 20;
  const index alignment = bytes >= huge ? huge : 64;
  const auto size = static_cast<std::size_t>((bytes + alignment - 1) & ~(alignment - 1));
  void* const memory = std::aligned_alloc(static_cast<std::size_t>(alignment), size);
#if defined(__linux__)
  if (memory != nullptr && alignment == huge)  // a wish: may fail; not the end, which may never be touched
    madvise(memory, static_cast<std::size_t>(bytes / huge * huge), MADV_HUGEPAGE);
#endif
  return memory;
}
inline void aligned_release(void*, void* memory, index) { std::free(memory); }

inline allocator& current_allocator() noexcept {
  static allocator current{nullptr, &aligned_allocate, &aligned_release};
  return current;
}
}  // namespace detail

/// Replaces the allocator of this copy of the library; call it before anything else. Memory goes back to the
/// allocator that it came from. Returns the previous one.
inline allocator set_allocator(const allocator& next) noexcept {
  return std::exchange(detail::current_allocator(), next);
}

/// Owned memory, aligned to 64 bytes. Movable, not copyable.
class buffer {
 public:
  buffer() noexcept = default;
  explicit buffer(index bytes) : from_(detail::current_allocator()), bytes_(bytes) {
    if (bytes <= 0) return;
    data_ = from_.allocate(from_.context, bytes);
    if (data_ == nullptr) detail::fail("einkorn: no memory for " + std::to_string(bytes) + " bytes");
  }
  ~buffer() {
    if (data_ != nullptr) from_.release(from_.context, data_, bytes_);
  }
  buffer(buffer&& other) noexcept
      : from_(other.from_),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    buffer taken(std::move(other));  // so that `other` ends up empty
    std::swap(from_, taken.from_);
    std::swap(data_, taken.data_);
    std::swap(bytes_, taken.bytes_);
    return *this;
  }
  void* data() const noexcept { return data_; }
  index bytes() const noexcept { return bytes_; }

 private:
  allocator from_;
  void* data_ = nullptr;
  index bytes_ = 0;
};

/// Scratch memory that grows to the largest request and is then reused: after the first call of a shape
/// nothing allocates. One call at a time may use it. Operations that are given none keep one per thread.
class workspace {
 public:
  workspace() noexcept = default;
  explicit workspace(index bytes) : memory_(bytes) {}

  /// Aligned to 64 bytes; what it held is lost when it grows.
  void* reserve(index bytes) {
    if (bytes > memory_.bytes()) {
      memory_ = buffer();
      memory_ = buffer(bytes);
    }
    return memory_.data();
  }
  index bytes() const noexcept { return memory_.bytes(); }

 private:
  friend class workspace_lease;
  buffer memory_;
  bool in_use_ = false;
};

/// The caller's workspace, or this thread's own; where that one is taken already (a task of one call that
/// makes another call), memory for this call alone.
class workspace_lease {
 public:
  explicit workspace_lease(workspace* given) noexcept {
    static thread_local workspace own;
    workspace* const wanted = given != nullptr ? given : &own;
    used_ = wanted->in_use_ ? &spare_ : wanted;
    used_->in_use_ = true;
  }
  ~workspace_lease() { used_->in_use_ = false; }
  workspace_lease(const workspace_lease&) = delete;
  workspace_lease& operator=(const workspace_lease&) = delete;
  void* reserve(index bytes) { return used_->reserve(bytes); }
  float* floats(index count) { return static_cast<float*>(reserve(count * 4)); }
  double* doubles(index count) { return static_cast<double*>(reserve(count * 8)); }

 private:
  workspace spare_;
  workspace* used_;
};

EINKORN_END_NAMESPACE
