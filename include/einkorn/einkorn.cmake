# The targets of einkorn, in a file that travels with the folder. A project that vendors include/einkorn
# writes `include(third_party/einkorn/einkorn.cmake)` and links one of
#   einkorn::einkorn       all ISA levels, chosen at run time
#   einkorn::header_only   nothing compiled; your own -march decides the level
# einkorn_add_kernels(target file...) compiles a kernel file once per ISA level into a target.

# What einkorn_add_kernels() reads: it is called from other folders too, which see the cache only.
function(_einkorn_publish name)
  set(${name} "${ARGN}" CACHE INTERNAL "")
endfunction()

_einkorn_publish(EINKORN_LEVELS baseline avx2 avx512_vnni avx512_bf16 amx)
get_filename_component(einkorn_include_dir ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
_einkorn_publish(EINKORN_INCLUDE_DIR ${einkorn_include_dir})

# Whatever the consumer's flags are, a level gets exactly its own: first everything beyond x86-64 is
# switched off, then the level's instructions are switched on. Never -march=haswell: it would add BMI2,
# LZCNT and MOVBE, which no gate checks.
_einkorn_publish(EINKORN_COMMON_FLAGS -march=x86-64 -mtune=generic -mno-avx512f -mno-sse3 -mno-bmi -mno-bmi2
    -mno-lzcnt -mno-movbe -mno-popcnt -O2 -fno-lto -fno-fast-math -ffp-contract=off)
_einkorn_publish(EINKORN_FLAGS_baseline)
_einkorn_publish(EINKORN_FLAGS_avx2 -mavx2 -mfma -mf16c)
_einkorn_publish(EINKORN_FLAGS_avx512_vnni ${EINKORN_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl
    -mavx512cd -mavx512vnni -mprefer-vector-width=512
    # g++ 12 warns inside its own avx512fintrin.h, where it means _mm512_undefined_ps().
    -Wno-uninitialized $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
_einkorn_publish(EINKORN_FLAGS_avx512_bf16 ${EINKORN_FLAGS_avx512_vnni} -mavx512bf16)
_einkorn_publish(EINKORN_FLAGS_amx ${EINKORN_FLAGS_avx512_bf16} -mamx-tile -mamx-bf16 -mamx-int8)

if(CMAKE_CXX_FLAGS MATCHES "-fsanitize")
  _einkorn_publish(EINKORN_SANITIZED ON)
else()
  _einkorn_publish(EINKORN_SANITIZED OFF)
endif()

# cpu_features and xsimd, from wherever find_package or the usual folders have them.
macro(_einkorn_find_dependencies)
  if(NOT TARGET CpuFeatures::cpu_features)
    find_package(CpuFeatures REQUIRED)
  endif()
  find_path(EINKORN_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp
            DOC "The folder that holds xsimd/xsimd.hpp (xsimd 8.1 or newer)")
  if(NOT EINKORN_XSIMD_INCLUDE_DIR)
    message(FATAL_ERROR "einkorn needs xsimd: apt-get install libxsimd-dev, or set EINKORN_XSIMD_INCLUDE_DIR")
  endif()
endmacro()

# einkorn_add_kernels(target file...): compiles each file once per ISA level and links the objects into
# target. In the file everything stands between EINKORN_BEGIN_LEVEL and EINKORN_END_LEVEL, so that
# no symbol is shared between levels.
function(einkorn_add_kernels target)
  if(NOT EINKORN_LEVELS)
    message(FATAL_ERROR "einkorn_add_kernels(${target}): EINKORN_LEVELS is empty, so nothing would be compiled")
  endif()
  foreach(level IN LISTS EINKORN_LEVELS)
    set(object ${target}_${level})
    add_library(${object} OBJECT ${ARGN})
    set_target_properties(${object} PROPERTIES
      POSITION_INDEPENDENT_CODE ON INTERPROCEDURAL_OPTIMIZATION OFF UNITY_BUILD OFF CXX_EXTENSIONS OFF
      CXX_VISIBILITY_PRESET hidden)
    target_compile_features(${object} PRIVATE cxx_std_20)
    target_compile_definitions(${object} PRIVATE EINKORN_TARGET=${level})
    target_include_directories(${object} PRIVATE ${EINKORN_INCLUDE_DIR})
    target_include_directories(${object} SYSTEM PRIVATE ${EINKORN_XSIMD_INCLUDE_DIR})
    if(TARGET einkorn_warnings)
      target_link_libraries(${object} PRIVATE einkorn_warnings)
    endif()
    # Last on the command line, so that they win over the consumer's. Sanitized at -O2 a level takes g++ over
    # three minutes, and at -O1 those with AVX-512 do: what this machine cannot run may stay without.
    set(sanitized_flags)
    if(EINKORN_SANITIZED)
      set(sanitized_flags -O1)
      if(level IN_LIST EINKORN_UNSANITIZED_LEVELS)
        list(APPEND sanitized_flags -fno-sanitize=all)
      endif()
    endif()
    target_compile_options(${object} PRIVATE ${EINKORN_COMMON_FLAGS} ${EINKORN_FLAGS_${level}} ${sanitized_flags})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
  endforeach()
endfunction()

_einkorn_find_dependencies()

if(NOT TARGET einkorn AND NOT TARGET einkorn::einkorn)
  add_library(einkorn STATIC ${CMAKE_CURRENT_LIST_DIR}/targets/dispatch.cpp)
  add_library(einkorn::einkorn ALIAS einkorn)
  set_target_properties(einkorn PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF)
  target_compile_features(einkorn PUBLIC cxx_std_20)
  target_include_directories(einkorn PUBLIC $<BUILD_INTERFACE:${EINKORN_INCLUDE_DIR}>
                                            $<INSTALL_INTERFACE:include>)
  target_link_libraries(einkorn PUBLIC CpuFeatures::cpu_features)
  if(TARGET einkorn_warnings)
    target_link_libraries(einkorn PRIVATE $<BUILD_INTERFACE:einkorn_warnings>)
  endif()
  foreach(level IN LISTS EINKORN_LEVELS)
    target_compile_definitions(einkorn PRIVATE EINKORN_COMPILED_${level}=1)
  endforeach()
  einkorn_add_kernels(einkorn ${CMAKE_CURRENT_LIST_DIR}/targets/kernels.cpp)
  set(EINKORN_USES_OPENMP OFF)
  option(EINKORN_OPENMP "Use OpenMP threads by default, where the compiler has OpenMP" ON)
  if(EINKORN_OPENMP)
    find_package(OpenMP QUIET COMPONENTS CXX)
    if(OpenMP_CXX_FOUND)
      set(EINKORN_USES_OPENMP ON)
      target_link_libraries(einkorn PRIVATE OpenMP::OpenMP_CXX)
    else()
      message(STATUS "einkorn: no OpenMP; the default executor is serial")
    endif()
  endif()

  add_library(einkorn_header_only INTERFACE)
  add_library(einkorn::header_only ALIAS einkorn_header_only)
  set_target_properties(einkorn_header_only PROPERTIES EXPORT_NAME header_only)
  target_compile_features(einkorn_header_only INTERFACE cxx_std_20)
  target_compile_definitions(einkorn_header_only INTERFACE EINKORN_HEADER_ONLY=1)
  target_include_directories(einkorn_header_only INTERFACE $<BUILD_INTERFACE:${EINKORN_INCLUDE_DIR}>
                                                           $<INSTALL_INTERFACE:include>)
  target_include_directories(einkorn_header_only SYSTEM INTERFACE
                             $<BUILD_INTERFACE:${EINKORN_XSIMD_INCLUDE_DIR}>)
  target_link_libraries(einkorn_header_only INTERFACE CpuFeatures::cpu_features)
endif()
