/// Version, the two modes of use, and the namespaces that keep copies of the library apart.
#pragma once

#if __cplusplus < 202002L
#error "einkorn needs C++20: add -std=c++20 (CMake: target_compile_features(TARGET PRIVATE cxx_std_20))"
#endif

#define EINKORN_VERSION_MAJOR 0
#define EINKORN_VERSION_MINOR 1
#define EINKORN_VERSION_PATCH 0
#define EINKORN_VERSION_STRING "0.1.0"

// ISA levels as numbers, for the preprocessor; `einkorn::isa` holds the same order.
#define EINKORN_LEVEL_NUMBER_baseline 0
#define EINKORN_LEVEL_NUMBER_avx2 1
#define EINKORN_LEVEL_NUMBER_avx512_vnni 2
#define EINKORN_LEVEL_NUMBER_avx512_bf16 3
#define EINKORN_LEVEL_NUMBER_amx 4

// The highest level that this translation unit's compiler flags allow.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512CD__) && defined(__AVX512VNNI__) && defined(__AVX2__) && defined(__FMA__) &&       \
    defined(__F16C__)
#if defined(__AVX512BF16__)
// clang before 17 writes these names without the inner underscore.
#if (defined(__AMX_TILE__) || defined(__AMXTILE__)) && (defined(__AMX_BF16__) || defined(__AMXBF16__)) && \
    (defined(__AMX_INT8__) || defined(__AMXINT8__))
#define EINKORN_FLAGS_LEVEL amx
#else
#define EINKORN_FLAGS_LEVEL avx512_bf16
#endif
#else
#define EINKORN_FLAGS_LEVEL avx512_vnni
#endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define EINKORN_FLAGS_LEVEL avx2
#else
#define EINKORN_FLAGS_LEVEL baseline
#endif

#define EINKORN_CONCAT_(a, b) a##b
#define EINKORN_CONCAT(a, b) EINKORN_CONCAT_(a, b)

// Everything public lives in an inline namespace that names version, mode and, in header-only mode, the
// level of the including file: two modes, two -march values or two vendored versions in one program are
// then different symbols, and the linker cannot merge an AVX-512 function into a baseline caller.
#if defined(EINKORN_HEADER_ONLY)
#define EINKORN_ABI EINKORN_CONCAT(v0_1_header_only_, EINKORN_FLAGS_LEVEL)
#else
#define EINKORN_ABI v0_1_dispatch
#endif

#define EINKORN_BEGIN_NAMESPACE \
  namespace einkorn {           \
  inline namespace EINKORN_ABI {
#define EINKORN_END_NAMESPACE \
  }                           \
  }

#if defined(__cpp_exceptions)
#define EINKORN_EXCEPTIONS 1
#else
#define EINKORN_EXCEPTIONS 0
#endif
