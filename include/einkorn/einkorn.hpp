/// einkorn: mixed-precision kernels for x86 CPUs, forward and backward, chosen at run time by ISA level.
#pragma once

#include "activation.hpp"
#include "adamw.hpp"
#include "allocation.hpp"
#include "attention.hpp"
#include "config.hpp"
#include "dropout.hpp"
#include "embedding.hpp"
#include "epilogue.hpp"
#include "error.hpp"
#include "executor.hpp"
#include "gemm.hpp"
#include "isa.hpp"
#include "layernorm.hpp"
#include "loss.hpp"
#include "softmax.hpp"
#include "types.hpp"
