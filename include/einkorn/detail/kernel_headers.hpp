/// Every kernel, for the one translation unit per ISA level (or, header-only, for the including one).
#pragma once

#include "../kernels/self_test.hpp"

#include "../kernels/gemm.hpp"

// softmax
#include "../kernels/softmax.hpp"

// layernorm
#include "../kernels/layernorm.hpp"

// activation

// dropout
#include "../kernels/dropout.hpp"

// embedding

// loss

// attention

// adamw
