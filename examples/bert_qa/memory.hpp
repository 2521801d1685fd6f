#pragma once

#include <cstddef>
#include <einkorn/einkorn.hpp>
#include <span>
#include <string>
#include <vector>

namespace bert_qa {

/// One zeroed allocation through the library's allocation hook: touched here, and not by the first step.
class memory_block {
 public:
  memory_block() = default;
  explicit memory_block(std::size_t bytes);

  std::size_t size() const { return static_cast<std::size_t>(memory_.bytes()); }

  template <class T>
  std::span<T> as() const {
    return {static_cast<T*>(memory_.data()), size() / sizeof(T)};
  }

 private:
  einkorn::buffer memory_;
};

/// A line of the plan of where memory goes.
struct memory_use {
  std::string purpose;
  std::size_t bytes = 0;
};

/// From now on what goes through the library's allocation hook is counted. Once, before the first allocation.
void count_allocations();
std::size_t allocated_bytes();  ///< taken and not given back since

std::size_t total_bytes(std::span<const memory_use> uses);

/// A table in MiB, one line each, with the sum and what the process had at its peak beside it.
std::string memory_text(std::span<const memory_use> uses, std::size_t peak_bytes);

/// Resident memory of the process at its peak.
std::size_t peak_memory();

/// Cuts pieces off a block, each at a cache line. Without a block it only counts, so that one function
/// plans the memory and hands it out.
class carver {
 public:
  explicit carver(std::byte* base) : base_(base) {}

  /// What follows is taken for this purpose.
  void begin(const char* purpose) { purpose_ = purpose; }

  template <class T>
  T* take(einkorn::index count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    used_ += bytes;
    if (base_ == nullptr) note(bytes);
    return piece;
  }
  template <class T>
  einkorn::matrix_view<T> matrix(einkorn::index rows, einkorn::index cols) {
    return {take<T>(rows * cols), rows, cols};
  }
  template <class T>
  std::span<T> array(einkorn::index count) {
    return {take<T>(count), static_cast<std::size_t>(count)};
  }
  std::size_t used() const { return used_; }
  const std::vector<memory_use>& plan() const { return plan_; }  ///< of a carver that counts

 private:
  void note(std::size_t bytes);

  std::byte* base_;
  std::size_t used_ = 0;
  const char* purpose_ = "";
  std::vector<memory_use> plan_;
};

}  // namespace bert_qa
