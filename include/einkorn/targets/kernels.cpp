// Compiled once per ISA level with that level's flags and -DEINKORN_TARGET=<level>; see einkorn.cmake.
#include "../detail/level_table.hpp"
