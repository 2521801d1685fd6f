/// Makes the table of the present level from its kernels.
#pragma once

#include "kernel_headers.hpp"
#include "kernel_table.hpp"
#include "level.hpp"

EINKORN_BEGIN_LEVEL

// constinit data: no constructor runs before main. Each target object defines it; header-only, inline.
#if defined(EINKORN_TARGET)
extern const detail::kernel_table table;
#else
inline
#endif
constinit const detail::kernel_table table = {
    static_cast<isa>(EINKORN_LEVEL_NUMBER),
    &self_test,
#define EINKORN_KERNEL(kernel) &kernel,
#include "kernels.def"
#undef EINKORN_KERNEL
};

EINKORN_END_LEVEL
