/// To be replaced within the hour by the vector kernels.
#pragma once

#include "../loss.hpp"
#include "../detail/level.hpp"

EINKORN_BEGIN_LEVEL
inline void cross_entropy(const detail::cross_entropy_args&) { __builtin_trap(); }
EINKORN_END_LEVEL
