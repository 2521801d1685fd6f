/// To be replaced within the hour by the vector kernels.
#pragma once

#include "../detail/level.hpp"
#include "../layernorm.hpp"

EINKORN_BEGIN_LEVEL
inline void layernorm(const detail::layernorm_args&) { __builtin_trap(); }
inline void layernorm_backward(const detail::layernorm_backward_args&) { __builtin_trap(); }
EINKORN_END_LEVEL
