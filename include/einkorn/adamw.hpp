/// AdamW over a list of tensors in one pass, and the global norm of gradients.
#pragma once

#include <cmath>
#include <span>

#include "allocation.hpp"
#include "detail/row_checks.hpp"
#include "executor.hpp"
#include "types.hpp"

EINKORN_BEGIN_NAMESPACE

/// One parameter tensor: n elements each, f32 but for the narrow copy.
struct adamw_tensor {
  float* param = nullptr;
  float* grad = nullptr;  // written only with adamw_options::zero_grad
  float* m = nullptr;
  float* v = nullptr;
  void* narrow = nullptr;          // null, or a copy of the new parameters in narrow_type
  dtype narrow_type = dtype::f32;  // of narrow, which is bf16 or fp16
  index n = 0;
  bool decay = true;  // whether weight_decay applies: not to biases and layer normalisation
};

struct adamw_options {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  std::int64_t t = 1;      // number of this step, from 1
  float grad_scale = 1;    // gradients are multiplied by it: clipping and the removal of a loss scale
  bool zero_grad = false;  // leave the gradients 0 for the next accumulation
};

namespace detail {
struct adamw_args {
  const adamw_tensor* tensors;
  index count, elements;  // tensors; sum of their n
  // rest1 = 1 - beta1 and so on, from double: 1 - 0.999f would be wrong by 1e-5.
  float beta1, beta2, rest1, rest2, eps, decay, step, inverse_sqrt_bc2, grad_scale;
  bool zero_grad;
  executor exec;
};
struct gradient_norm_args {
  const std::span<const float>* tensors;
  index count, elements;
  double* partial;  // one for each block of gradient_norm_block elements
  double* sum;      // out: the sum of squares
  executor exec;
};
/// Elements of the tensors taken one after another; the unit of work and of the sums' order.
inline constexpr index adamw_block = 32768;
inline constexpr index gradient_norm_block = 32768;
}  // namespace detail

EINKORN_END_NAMESPACE

#include "isa.hpp"  // after the arguments: header-only, it brings in the kernels

EINKORN_BEGIN_NAMESPACE

/// One step of AdamW (decoupled weight decay), as torch.optim.AdamW:
///   g = grad_scale * grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
///   p = p (1 - lr weight_decay)   (tensors with decay)
///   p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps);  narrow = p rounded
///
/// Arithmetic in f32; the correction factors in double. With u = 2^-24: m within 4 u of the sum of its terms'
/// magnitudes, v within 6 u of v, p within 3 u |p| and, where s is the factor of m in p's formula,
/// s (m's error + 8 u |m|), each of them and 2^-149. Tensors share no memory.
/// Same ISA, same bits, for any number of threads and any division into tensors. Allocates nothing.
/// Throws einkorn::error (null pointers, a narrow type that is not bf16 or fp16, t < 1, betas outside
/// [0, 1)) before anything is written. Truth: reference/adamw.hpp
inline void adamw(std::span<const adamw_tensor> tensors, const adamw_options& options,
                  const executor& exec = default_executor()) {
  const auto complain = [](const std::string& text) { detail::fail("adamw: " + text); };
  if (options.t < 1) [[unlikely]]
    complain("t " + std::to_string(options.t) + ", expected the number of the step, from 1");
  if (!(options.beta1 >= 0 && options.beta1 < 1)) [[unlikely]]
    complain("beta1 " + detail::shown(options.beta1) + " is not in [0, 1)");
  if (!(options.beta2 >= 0 && options.beta2 < 1)) [[unlikely]]
    complain("beta2 " + detail::shown(options.beta2) + " is not in [0, 1)");
  if (!(options.eps >= 0)) [[unlikely]]
    complain("eps " + detail::shown(options.eps) + " < 0");
  index elements = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const adamw_tensor& tensor = tensors[i];
    const auto complain_tensor = [&](const std::string& text) {
      complain("tensors[" + std::to_string(i) + "]" + text);
    };
    if (tensor.n < 0) [[unlikely]]
      complain_tensor(".n " + std::to_string(tensor.n) + " < 0");
    if (tensor.n > 0) {
      const struct {
        const char* name;
        const float* data;
      } parts[] = {{".param", tensor.param}, {".grad", tensor.grad}, {".m", tensor.m}, {".v", tensor.v}};
      for (const auto& part : parts)
        if (part.data == nullptr) [[unlikely]]
          complain_tensor(std::string(part.name) + " is null for " + std::to_string(tensor.n) + " elements");
    }
    if (tensor.narrow != nullptr && tensor.narrow_type != dtype::bf16 && tensor.narrow_type != dtype::fp16)
        [[unlikely]]
      complain_tensor(std::string(".narrow_type is ") + name(tensor.narrow_type) + ", expected bf16 or fp16");
    elements += tensor.n;
  }
  const double bc1 = 1 - std::pow(options.beta1, static_cast<double>(options.t));
  const double bc2 = 1 - std::pow(options.beta2, static_cast<double>(options.t));
  detail::kernels().adamw(
      {tensors.data(), static_cast<index>(tensors.size()), elements, static_cast<float>(options.beta1),
       static_cast<float>(options.beta2), static_cast<float>(1 - options.beta1),
       static_cast<float>(1 - options.beta2), static_cast<float>(options.eps),
       static_cast<float>(1 - options.lr * options.weight_decay), static_cast<float>(options.lr / bc1),
       static_cast<float>(1 / std::sqrt(bc2)), options.grad_scale, options.zero_grad, exec});
}

/// The L2 norm of all elements of all tensors: squares and sums in f64, in blocks of fixed size and order,
/// whatever the number of threads. Not finite exactly when an element is not finite (squares of f32 do not
/// overflow in f64). The first call of a size allocates scratch memory for the calling thread.
/// Relative error below 1e-11. Truth: reference/adamw.hpp
inline double gradient_norm(std::span<const std::span<const float>> tensors,
                            const executor& exec = default_executor()) {
  index elements = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].data() == nullptr && !tensors[i].empty()) [[unlikely]]
      detail::fail("gradient_norm: tensors[" + std::to_string(i) + "] is null for " +
                   std::to_string(tensors[i].size()) + " elements");
    elements += static_cast<index>(tensors[i].size());
  }
  const index blocks = (elements + detail::gradient_norm_block - 1) / detail::gradient_norm_block;
  workspace_lease scratch(nullptr);
  double* const partial = scratch.doubles(blocks + 1);
  double sum = 0;
  detail::kernels().gradient_norm(
      {tensors.data(), static_cast<index>(tensors.size()), elements, partial, &sum, exec});
  return std::sqrt(sum);
}

/// What gradients are multiplied by so that their norm is at most max_norm, as torch.nn.utils.clip_grad_norm_
/// after GradScaler.unscale_: unscale * min(1, max_norm / (norm * unscale + 1e-6)). `norm` is that of the
/// gradients as they are, before `unscale`. NaN for a norm of NaN, as there.
inline float clip_scale(double norm, double max_norm, double unscale = 1) noexcept {
  const double clip = max_norm / (norm * unscale + 1e-6);
  return static_cast<float>(unscale * (clip > 1 ? 1.0 : clip));
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
