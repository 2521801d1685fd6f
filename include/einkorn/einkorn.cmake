# The targets of einkorn, in a file that travels with the folder. A project that vendors include/einkorn
# writes `include(third_party/einkorn/einkorn.cmake)` and links einkorn::einkorn or einkorn::header_only.
include_guard(DIRECTORY)
if(NOT TARGET einkorn::einkorn)
  add_library(einkorn INTERFACE)
  add_library(einkorn::einkorn ALIAS einkorn)
  get_filename_component(EINKORN_INCLUDE_DIR ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
  target_include_directories(einkorn INTERFACE ${EINKORN_INCLUDE_DIR})
  target_compile_features(einkorn INTERFACE cxx_std_20)
endif()
