/// Every kernel, for the one translation unit per ISA level (or, header-only, for the including one).
#pragma once

#include "../kernels/self_test.hpp"

// gemm

// softmax

// layernorm

// activation

// dropout

// embedding

// loss

// attention

// adamw
