/// einkorn: mixed-precision kernels for x86 CPUs, forward and backward, chosen at run time by ISA level.
#pragma once

#include "config.hpp"
#include "dropout.hpp"
#include "error.hpp"
#include "executor.hpp"
#include "isa.hpp"
#include "layernorm.hpp"
#include "softmax.hpp"
#include "types.hpp"
