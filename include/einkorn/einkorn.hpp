/// einkorn: mixed-precision kernels for x86 CPUs, forward and backward, chosen at run time by ISA level.
#pragma once

#include "allocation.hpp"
#include "config.hpp"
#include "dropout.hpp"
#include "epilogue.hpp"
#include "error.hpp"
#include "executor.hpp"
#include "gemm.hpp"
#include "isa.hpp"
#include "layernorm.hpp"
#include "softmax.hpp"
#include "types.hpp"
