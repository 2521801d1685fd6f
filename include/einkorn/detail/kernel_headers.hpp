/// Every kernel, for the one translation unit per ISA level (or, header-only, for the including one).
#pragma once

#include "../kernels/self_test.hpp"

#include "../kernels/gemm.hpp"

// quantize
#include "../kernels/quantize.hpp"

// softmax
#include "../kernels/softmax.hpp"

// layernorm
#include "../kernels/layernorm.hpp"

// activation
#include "../kernels/activation.hpp"

// dropout
#include "../kernels/dropout.hpp"

// embedding
#include "../kernels/embedding.hpp"

// embedding_layernorm
#include "../kernels/embedding_layernorm.hpp"

// loss
#include "../kernels/loss.hpp"

// attention
#include "../kernels/attention.hpp"

// adamw
#include "../kernels/adamw.hpp"
