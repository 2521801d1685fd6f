// oneDNN's matmul as a peer of gemm_bench.cpp.
#include <oneapi/dnnl/dnnl.hpp>

#include "gemm_bench.hpp"

namespace bench {

struct onednn_matmul {
  dnnl::stream stream;
  dnnl::matmul primitive;
  std::unordered_map<int, dnnl::memory> arguments;
};

namespace {
dnnl::memory::data_type type_of(einkorn::dtype type) {
  using data_type = dnnl::memory::data_type;
  constexpr data_type types[] = {data_type::f32, data_type::bf16, data_type::f16,
                                 data_type::s32, data_type::u8,   data_type::s8};
  return types[static_cast<int>(type)];
}
}  // namespace

onednn_matmul* onednn_prepare(const gemm_operands& o, bool packed) try {
  using dnnl::memory;
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  const gemm_shape& s = o.shape;
  const auto describe = [&](einkorn::dtype type, index rows, index cols, bool transposed) {
    return memory::desc({s.batch, rows, cols}, type_of(type),
                        {rows * cols, transposed ? 1 : cols, transposed ? rows : 1});
  };
  const memory::desc a = describe(o.a_type, s.rows, s.depth, s.a_transposed);
  const memory::desc b = describe(o.b_type, s.depth, s.cols, s.b_transposed);
  const memory::desc c = describe(o.c_type, s.rows, s.cols, false);
  const memory::desc any({s.batch, s.depth, s.cols}, type_of(o.b_type), memory::format_tag::any);
  const dnnl::matmul::primitive_desc description(engine, a, packed ? any : b, c);
  dnnl::stream stream(engine);
  memory plain(b, engine, o.b), weights = plain;
  if (packed) {
    weights = memory(description.weights_desc(), engine);
    dnnl::reorder(plain, weights).execute(stream, plain, weights);
    stream.wait();
  }
  return new onednn_matmul{stream,
                           dnnl::matmul(description),
                           {{DNNL_ARG_SRC, memory(a, engine, o.a)},
                            {DNNL_ARG_WEIGHTS, weights},
                            {DNNL_ARG_DST, memory(c, engine, o.c)}}};
} catch (const dnnl::error&) {
  return nullptr;
}

void onednn_run(onednn_matmul& m) {
  m.primitive.execute(m.stream, m.arguments);
  m.stream.wait();
}

void onednn_release(onednn_matmul* m) { delete m; }

}  // namespace bench
