#include "memory.hpp"

#include <sys/resource.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace bert_qa {
namespace {

einkorn::allocator usual;
std::atomic<std::int64_t> allocated{0};

}  // namespace

void count_allocations() {
  usual = einkorn::set_allocator({nullptr,
                                  [](void*, einkorn::index bytes) {
                                    allocated += bytes;
                                    return usual.allocate(usual.context, bytes);
                                  },
                                  [](void*, void* memory, einkorn::index bytes) {
                                    allocated -= bytes;
                                    usual.release(usual.context, memory, bytes);
                                  }});
}

std::size_t allocated_bytes() { return static_cast<std::size_t>(allocated.load()); }

memory_block::memory_block(std::size_t bytes) : memory_(static_cast<einkorn::index>(bytes)) {
  if (bytes > 0) std::memset(memory_.data(), 0, bytes);
}

std::size_t total_bytes(std::span<const memory_use> uses) {
  std::size_t sum = 0;
  for (const memory_use& use : uses) sum += use.bytes;
  return sum;
}

std::string memory_text(std::span<const memory_use> uses, std::size_t peak_bytes) {
  std::string text;
  const auto line = [&](const std::string& purpose, std::size_t bytes) {
    char row[128];
    std::snprintf(row, sizeof row, "  %-40s %9.1f\n", purpose.c_str(),
                  static_cast<double>(bytes) / (1 << 20));
    text += row;
  };
  for (const memory_use& use : uses)
    if (use.bytes != 0) line(use.purpose, use.bytes);
  const std::size_t sum = total_bytes(uses);
  line("sum", sum);
  if (peak_bytes > sum) line("program, data, rounding to pages", peak_bytes - sum);
  return "memory after the first step, MiB\n" + text;
}

std::size_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

void carver::note(std::size_t bytes) {
  for (memory_use& use : plan_) {
    if (use.purpose == purpose_) {
      use.bytes += bytes;
      return;
    }
  }
  plan_.push_back({purpose_, bytes});
}

}  // namespace bert_qa
