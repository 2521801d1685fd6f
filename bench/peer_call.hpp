// How a peer_*.cpp keeps what prepare made: a function to call, with all that it holds.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>

#include "peer.hpp"

namespace bench_peer {

struct call {
  std::function<void()> run;
};

inline void run(void* handle) { static_cast<call*>(handle)->run(); }
inline void release(void* handle) { delete static_cast<call*>(handle); }
inline const char* accept(void** handle, std::function<void()> f) {
  *handle = new call{std::move(f)};
  return nullptr;
}

/// Page-aligned memory that lives as long as the call that captures it.
inline std::shared_ptr<void> memory(std::size_t bytes) {
  return {std::aligned_alloc(4096, (bytes + 8191) / 4096 * 4096), std::free};
}

inline std::int64_t size_of(peer_type type) {
  constexpr std::int64_t sizes[] = {4, 2, 2, 4, 1, 1};
  return sizes[type];
}

/// Where matrix number i of a batch begins.
template <class T>
const T* matrix(const void* first, std::int64_t i, std::int64_t elements) {
  return static_cast<const T*>(first) + i * elements;
}

/// Of the fastest of a few calls: to choose between two ways of doing the same.
inline double seconds(const std::function<void()>& call) {
  using clock = std::chrono::steady_clock;
  call();
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto start = clock::now();
    call();
    best = std::min(best, std::chrono::duration<double>(clock::now() - start).count());
  }
  return best;
}

}  // namespace bench_peer
