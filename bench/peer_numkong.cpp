// NumKong: packed dot products, C = A * transpose(W) with W packed, which is a product with packed B. Its C
// functions are taken from its Python module; f32 comes out as f64 there and is therefore refused.
#include <dlfcn.h>

#include "peer_call.hpp"

namespace {

void* library = nullptr;

const char* prepare_gemm(const peer_gemm* p, void** handle) {
  *handle = nullptr;
  if (p->packed == 0) return "multiplies packed B only";
  if (p->batch != 1) return "has no batches";
  if (p->a_transposed != 0) return "takes no transposed A";
  const bool bf16 = p->a_type == peer_bf16 && p->b_type == peer_bf16 && p->c_type == peer_f32;
  const bool fp16 = p->a_type == peer_fp16 && p->b_type == peer_fp16 && p->c_type == peer_f32;
  const bool s8 = p->a_type == peer_s8 && p->b_type == peer_s8 && p->c_type == peer_i32;
  if (!bf16 && !fp16 && !s8) return "has bf16 and fp16 to f32, and s8 to i32";
  using size = std::uint64_t;
  using size_function = size (*)(size, size);
  using pack_function = void (*)(const void*, size, size, size, void*);
  using multiply_function = void (*)(const void*, const void*, void*, size, size, size, size, size);
  const auto find = [&](const char* names[3]) { return dlsym(library, names[bf16 ? 0 : fp16 ? 1 : 2]); };
  const char* size_names[] = {"nk_dots_packed_size_bf16", "nk_dots_packed_size_f16",
                              "nk_dots_packed_size_i8"};
  const char* pack_names[] = {"nk_dots_pack_bf16", "nk_dots_pack_f16", "nk_dots_pack_i8"};
  const char* run_names[] = {"nk_dots_packed_bf16", "nk_dots_packed_f16", "nk_dots_packed_i8"};
  const auto packed_size = reinterpret_cast<size_function>(find(size_names));
  const auto pack = reinterpret_cast<pack_function>(find(pack_names));
  const auto multiply = reinterpret_cast<multiply_function>(find(run_names));
  if (packed_size == nullptr || pack == nullptr || multiply == nullptr)
    return "does not export these products";

  const auto rows = static_cast<size>(p->rows), cols = static_cast<size>(p->cols),
             depth = static_cast<size>(p->depth);
  const auto element = static_cast<size>(bench_peer::size_of(p->a_type));
  const auto w = bench_peer::memory(packed_size(cols, depth));
  if (p->b_transposed != 0) {
    pack(p->b, cols, depth, depth * element, w.get());
  } else {  // it packs rows of B transposed, which must be in memory as such
    const auto turned = bench_peer::memory(cols * depth * element);
    const auto* const from = static_cast<const char*>(p->b);
    auto* const to = static_cast<char*>(turned.get());
    for (size row = 0; row < depth; ++row)
      for (size col = 0; col < cols; ++col)
        for (size byte = 0; byte < element; ++byte)
          to[(col * depth + row) * element + byte] = from[(row * cols + col) * element + byte];
    pack(turned.get(), cols, depth, depth * element, w.get());
  }
  const auto* const a = static_cast<const char*>(p->a);
  auto* const c = static_cast<char*>(p->c);
  const size c_row = cols * static_cast<size>(bench_peer::size_of(p->c_type));
  const size tasks = rows < static_cast<size>(p->threads) ? 1 : static_cast<size>(p->threads);
  return bench_peer::accept(handle, [=] {
    if (tasks == 1) return multiply(a, w.get(), c, rows, cols, depth, depth * element, c_row);
#pragma omp parallel for num_threads(static_cast <int>(tasks)) schedule(static, 1)
    for (size task = 0; task < tasks; ++task) {
      const size first = rows * task / tasks, count = rows * (task + 1) / tasks - first;
      multiply(a + first * depth * element, w.get(), c + first * c_row, count, cols, depth, depth * element,
               c_row);
    }
  });
}

}  // namespace

EINKORN_BENCH_PEER {
  static const peer_interface self{EINKORN_BENCH_PEER_NAME,
                                   "NumKong " EINKORN_BENCH_NUMKONG_VERSION,
                                   prepare_gemm,
                                   nullptr,
                                   bench_peer::run,
                                   bench_peer::release};
  // The module refers to Python's objects without linking Python.
  if (dlopen(EINKORN_BENCH_PYTHON_LIBRARY, RTLD_NOW | RTLD_GLOBAL) == nullptr) return nullptr;
  library = dlopen(EINKORN_BENCH_NUMKONG_LIBRARY, RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr || dlsym(library, "nk_dots_packed_bf16") == nullptr) return nullptr;
  return &self;
}
