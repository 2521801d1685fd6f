/// The functions of one ISA level, as data: what dispatch chooses among.
#pragma once

#include "../types.hpp"

EINKORN_BEGIN_NAMESPACE

enum class isa : std::uint8_t { baseline, avx2, avx512_vnni, avx512_bf16, amx };
inline constexpr int isa_count = 5;

constexpr const char* name(isa level) noexcept {
  constexpr const char* names[] = {"baseline", "avx2", "avx512_vnni", "avx512_bf16", "amx"};
  return names[static_cast<int>(level)];
}

namespace detail {

#define EINKORN_KERNEL(kernel) struct kernel##_args;
#include "kernels.def"
#undef EINKORN_KERNEL

struct kernel_table {
  isa level;
  bool (*self_test)();  // a small product whose result is known
#define EINKORN_KERNEL(kernel) void (*kernel)(const kernel##_args&);
#include "kernels.def"
#undef EINKORN_KERNEL
};

/// A level's table, or null where the level is not compiled in.
#if !defined(EINKORN_HEADER_ONLY)
const kernel_table* compiled_kernels(isa level) noexcept;  // targets/dispatch.cpp
#else
inline const kernel_table* compiled_kernels(isa level) noexcept;  // detail/implementation.hpp
#endif

}  // namespace detail

EINKORN_END_NAMESPACE
