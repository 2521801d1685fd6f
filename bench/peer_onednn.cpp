// oneDNN: matmul, softmax, layer normalisation, GELU. Compiled once for each version that is installed.
#include <oneapi/dnnl/dnnl.hpp>

#include <string>
#include <unordered_map>

#include "peer_call.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

using dnnl::memory;
using arguments = std::unordered_map<int, memory>;

dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}
dnnl::stream& stream() {
  static dnnl::stream of_calls(engine());
  return of_calls;
}

memory::data_type type_of(peer_type type) {
  using data_type = memory::data_type;
  constexpr data_type types[] = {data_type::f32, data_type::bf16, data_type::f16,
                                 data_type::s32, data_type::u8,   data_type::s8};
  return types[type];
}

void use_threads([[maybe_unused]] std::int32_t threads) {
#if defined(_OPENMP)
  omp_set_num_threads(threads);
#endif
}

std::string reason;
template <class Prepare>
const char* guarded(void** handle, const Prepare& prepare) {
  *handle = nullptr;
  try {
    return prepare();
  } catch (const std::exception& error) {
    reason = error.what();
    return reason.c_str();
  }
}

std::function<void()> execution(dnnl::primitive primitive, arguments args) {
  return [primitive, args] {
    primitive.execute(stream(), args);
    stream().wait();
  };
}

constexpr const char* only_reference = "only its reference implementation takes this";

bool is_reference(const dnnl::primitive_desc_base& description) {
  return std::string(description.impl_info_str()).find("ref") != std::string::npos;
}

const char* prepare_gemm(const peer_gemm* p, void** handle) {
  return guarded(handle, [&]() -> const char* {
    use_threads(p->threads);
    const bool batched = p->batch > 1;
    const auto describe = [&](peer_type type, std::int64_t rows, std::int64_t cols, bool transposed) {
      const std::int64_t row = transposed ? 1 : cols, col = transposed ? rows : 1;
      return batched ? memory::desc({p->batch, rows, cols}, type_of(type), {rows * cols, row, col})
                     : memory::desc({rows, cols}, type_of(type), {row, col});
    };
    const memory::desc a = describe(p->a_type, p->rows, p->depth, p->a_transposed != 0);
    const memory::desc b = describe(p->b_type, p->depth, p->cols, p->b_transposed != 0);
    const memory::desc c = describe(p->c_type, p->rows, p->cols, false);
    const memory::desc free_choice(b.get_dims(), type_of(p->b_type), memory::format_tag::any);
    const dnnl::matmul::primitive_desc chosen(engine(), a, p->packed != 0 ? free_choice : b, c);
    if (is_reference(chosen)) return only_reference;
    memory plain(b, engine(), const_cast<void*>(p->b)), weights = plain;
    if (p->packed != 0) {
      weights = memory(chosen.weights_desc(), engine());
      dnnl::reorder(plain, weights).execute(stream(), plain, weights);
      stream().wait();
    }
    return bench_peer::accept(
        handle, execution(dnnl::matmul(chosen), {{DNNL_ARG_SRC, memory(a, engine(), const_cast<void*>(p->a))},
                                                 {DNNL_ARG_WEIGHTS, weights},
                                                 {DNNL_ARG_DST, memory(c, engine(), p->c)}}));
  });
}

const char* prepare_rows(const peer_rows* p, void** handle) {
  return guarded(handle, [&]() -> const char* {
    use_threads(p->threads);
    using dnnl::prop_kind;
    const memory::desc matrix({p->rows, p->cols}, type_of(p->type), memory::format_tag::ab);
    const auto whole = [&](void* data) { return memory(matrix, engine(), data); };
    const auto vector = [&](float* data, std::int64_t size) {
      return memory({{size}, memory::data_type::f32, memory::format_tag::a}, engine(), data);
    };
    const auto accept = [&]<class Primitive>(const Primitive& primitive, const auto& description,
                                             arguments args) -> const char* {
      if (is_reference(description)) return only_reference;
      return bench_peer::accept(handle, execution(primitive, std::move(args)));
    };
    if (p->operation == peer_softmax || p->operation == peer_softmax_backward) {
      const auto accurate = dnnl::algorithm::softmax_accurate;
      const dnnl::softmax_forward::primitive_desc forward(engine(), prop_kind::forward_training, accurate,
                                                          matrix, matrix, 1);
      if (p->operation == peer_softmax)
        return accept(dnnl::softmax_forward(forward), forward,
                      {{DNNL_ARG_SRC, whole(p->x)}, {DNNL_ARG_DST, whole(p->y)}});
      const dnnl::softmax_backward::primitive_desc backward(engine(), accurate, matrix, matrix, matrix, 1,
                                                            forward);
      return accept(dnnl::softmax_backward(backward), backward,
                    {{DNNL_ARG_DST, whole(p->y)},
                     {DNNL_ARG_DIFF_DST, whole(p->dy)},
                     {DNNL_ARG_DIFF_SRC, whole(p->dx)}});
    }
    if (p->operation == peer_gelu || p->operation == peer_gelu_backward) {
      const auto gelu = dnnl::algorithm::eltwise_gelu_erf;
      const dnnl::eltwise_forward::primitive_desc forward(engine(), prop_kind::forward_training, gelu, matrix,
                                                          matrix, 0.f, 0.f);
      if (p->operation == peer_gelu)
        return accept(dnnl::eltwise_forward(forward), forward,
                      {{DNNL_ARG_SRC, whole(p->x)}, {DNNL_ARG_DST, whole(p->y)}});
      const dnnl::eltwise_backward::primitive_desc backward(engine(), gelu, matrix, matrix, matrix, 0.f, 0.f,
                                                            forward);
      return accept(dnnl::eltwise_backward(backward), backward,
                    {{DNNL_ARG_SRC, whole(p->x)},
                     {DNNL_ARG_DIFF_DST, whole(p->dy)},
                     {DNNL_ARG_DIFF_SRC, whole(p->dx)}});
    }
    const auto flags = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;
    const dnnl::layer_normalization_forward::primitive_desc forward(engine(), prop_kind::forward_training,
                                                                    matrix, matrix, 1e-12f, flags);
    const arguments common = {{DNNL_ARG_SRC, whole(p->x)},
                              {DNNL_ARG_MEAN, vector(p->mean, p->rows)},
                              {DNNL_ARG_VARIANCE, vector(p->variance, p->rows)},
                              {DNNL_ARG_SCALE, vector(p->gamma, p->cols)},
                              {DNNL_ARG_SHIFT, vector(p->beta, p->cols)}};
    arguments args = common;
    if (p->operation == peer_layernorm) {
      args.insert({DNNL_ARG_DST, whole(p->y)});
      return accept(dnnl::layer_normalization_forward(forward), forward, args);
    }
    const dnnl::layer_normalization_backward::primitive_desc backward(engine(), prop_kind::backward, matrix,
                                                                      matrix, matrix, 1e-12f, flags, forward);
    args.insert({{DNNL_ARG_DIFF_DST, whole(p->dy)},
                 {DNNL_ARG_DIFF_SRC, whole(p->dx)},
                 {DNNL_ARG_DIFF_SCALE, vector(p->dgamma, p->cols)},
                 {DNNL_ARG_DIFF_SHIFT, vector(p->dbeta, p->cols)}});
    return accept(dnnl::layer_normalization_backward(backward), backward, args);
  });
}

}  // namespace

EINKORN_BENCH_PEER {
  static std::string version;
  static peer_interface self{EINKORN_BENCH_PEER_NAME, nullptr, prepare_gemm, prepare_rows, bench_peer::run,
                             bench_peer::release};
  try {
    stream();
  } catch (const std::exception& error) {
    return nullptr;
  }
  const dnnl_version_t* const v = dnnl_version();
  version =
      "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
  self.version = version.c_str();
  return &self;
}
