#include "memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>

namespace bert_qa {

memory_block::memory_block(std::size_t bytes) : memory_(static_cast<einkorn::index>(bytes)) {
  if (bytes == 0) return;
  constexpr std::uintptr_t page = 4096, huge_page = std::uintptr_t{2} << 20;
  if (bytes >= 2 * huge_page) {
    const auto begin = (reinterpret_cast<std::uintptr_t>(memory_.data()) + page - 1) / page * page;
    const auto end = (reinterpret_cast<std::uintptr_t>(memory_.data()) + bytes) / page * page;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish: failure changes nothing
  }
  std::memset(memory_.data(), 0, bytes);
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
