/// To be replaced within the hour by the vector kernels.
#pragma once

#include "../detail/level.hpp"
#include "../softmax.hpp"

EINKORN_BEGIN_LEVEL
inline void softmax(const detail::softmax_args&) { __builtin_trap(); }
inline void softmax_backward(const detail::softmax_backward_args&) { __builtin_trap(); }
EINKORN_END_LEVEL
