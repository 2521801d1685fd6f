/// The ISA level that the present translation unit compiles kernels for, and the namespace that tags them.
///
/// Rules for everything between EINKORN_BEGIN_LEVEL and EINKORN_END_LEVEL: no std containers, no
/// std::function, no iostream, no global with a constructor. An inline function outside these macros that
/// is compiled with AVX-512 flags could be the copy that the linker keeps for a baseline caller.
#pragma once

#include "../config.hpp"

#if defined(EINKORN_TARGET)
#define EINKORN_LEVEL_WORD EINKORN_TARGET
#elif defined(EINKORN_HEADER_ONLY)
#define EINKORN_LEVEL_WORD EINKORN_FLAGS_LEVEL
#else
#error \
    "einkorn/kernels/ is compiled by einkorn_add_kernels() or in header-only mode; see docs/adding_a_kernel.md"
#endif

#define EINKORN_LEVEL EINKORN_CONCAT(level_, EINKORN_LEVEL_WORD)
#define EINKORN_LEVEL_NUMBER EINKORN_CONCAT(EINKORN_LEVEL_NUMBER_, EINKORN_LEVEL_WORD)

#define EINKORN_LEVEL_AT_LEAST_AVX2 (EINKORN_LEVEL_NUMBER >= 1)
#define EINKORN_LEVEL_AT_LEAST_AVX512_VNNI (EINKORN_LEVEL_NUMBER >= 2)
#define EINKORN_LEVEL_AT_LEAST_AVX512_BF16 (EINKORN_LEVEL_NUMBER >= 3)
#define EINKORN_LEVEL_AT_LEAST_AMX (EINKORN_LEVEL_NUMBER >= 4)

// Files that only call kernels compiled elsewhere may be compiled with these flags; they do not come here.
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ != 0)
#error "the kernels need IEEE arithmetic: no -ffast-math, and none of its parts"
#endif

#if defined(EINKORN_TARGET)
// Flags that leaked in from outside would make this object need more than its level promises.
#if EINKORN_LEVEL_NUMBER != EINKORN_CONCAT(EINKORN_LEVEL_NUMBER_, EINKORN_FLAGS_LEVEL)
#error "the compiler flags are not those of this ISA level; einkorn.cmake lists them"
#endif
#if !EINKORN_LEVEL_AT_LEAST_AVX2 && (defined(__SSE3__) || defined(__AVX__))
#error "baseline must not use more than SSE2"
#endif
#if !EINKORN_LEVEL_AT_LEAST_AVX512_VNNI && defined(__AVX512F__)
#error "this level must not use AVX-512"
#endif
#if !EINKORN_LEVEL_AT_LEAST_AVX512_BF16 && defined(__AVX512BF16__)
#error "this level must not use AVX512-BF16"
#endif
#if defined(__BMI__) || defined(__BMI2__) || defined(__LZCNT__) || defined(__MOVBE__) || \
    defined(__AVX512FP16__)
#error "no gate checks BMI, LZCNT, MOVBE and AVX512-FP16: they must be off"
#endif
// xsimd is not ours to tag, so each object has an xsimd of its own name.
#define xsimd EINKORN_CONCAT(xsimd_, EINKORN_TARGET)
#endif

#define EINKORN_BEGIN_LEVEL \
  EINKORN_BEGIN_NAMESPACE   \
  namespace EINKORN_LEVEL {
#define EINKORN_END_LEVEL \
  }                       \
  EINKORN_END_NAMESPACE
