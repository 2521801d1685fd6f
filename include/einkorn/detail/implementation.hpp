/// Ends every public header. In header-only mode it brings the kernels in; else the linked library has them.
#pragma once

#if defined(EINKORN_HEADER_ONLY) && !defined(EINKORN_TARGET)

#include "level_table.hpp"

EINKORN_BEGIN_NAMESPACE
namespace detail {
inline const kernel_table* compiled_kernels(isa level) noexcept {
  return static_cast<int>(level) == EINKORN_LEVEL_NUMBER ? &EINKORN_LEVEL::table : nullptr;
}
}  // namespace detail
EINKORN_END_NAMESPACE

#endif
