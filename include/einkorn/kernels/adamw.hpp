/// To be replaced within the hour by the vector kernels.
#pragma once

#include "../adamw.hpp"
#include "../detail/level.hpp"

EINKORN_BEGIN_LEVEL
inline void adamw(const detail::adamw_args&) { __builtin_trap(); }
inline void gradient_norm(const detail::gradient_norm_args&) { __builtin_trap(); }
EINKORN_END_LEVEL
