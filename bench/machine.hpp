// What the machine can do: multiply-adds that touch registers only, and bytes that streams move.
#pragma once

#include <einkorn/einkorn.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace bench {

using einkorn::index;

/// Zeroed memory on huge pages where the system has them, touched, at a cache line; every block begins at
/// another offset in its page, as blocks of an allocator do.
class memory {
 public:
  memory() = default;
  explicit memory(index bytes);
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  index bytes() const { return bytes_; }

 private:
  std::shared_ptr<void> owner_;
  void* data_ = nullptr;
  index bytes_ = 0;
};

/// Small numbers in [-1/2, 1/2), integers in [0, 127] (u8) and [-127, 127] (s8): no denormal, no overflow,
/// and no saturation in libraries that add two products in 16 bits.
void fill(const memory& m, einkorn::dtype type, unsigned seed);

/// The executor of this process: OpenMP with settings().threads.
einkorn::executor executor();

/// Makes OpenMP start them.
void start_threads();

/// A loop of multiply-adds on registers, on all threads of this process, for products of this type at this
/// level; null where there is none.
struct register_loop {
  std::function<void()> run;
  double flop = 0;  ///< of one run, all threads; integer operations for integers
};
register_loop register_peak(einkorn::isa level, einkorn::dtype type);

/// One array that an operation reads, writes or changes in place.
struct stream {
  enum kind { read, write, update };
  kind how;
  void* data;
  index bytes;
};
/// Moves the same bytes with next to no arithmetic, a piece of every stream after the other, on all threads.
/// streaming: with stores that pass the caches by.
std::function<void()> stream_loop(std::vector<stream> streams, bool streaming);
/// Bytes that must move: an update counts twice.
double bytes_of(const std::vector<stream>& streams);

/// Bytes of the last-level cache.
index last_level_cache();

}  // namespace bench
