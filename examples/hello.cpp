// C = A * transpose(B) in bf16, accumulated in f32, on the best instructions that this CPU has.
#include <cstdio>
#include <einkorn/einkorn.hpp>
#include <vector>

int main() {
  const einkorn::index rows = 64, cols = 48, depth = 32;
  std::vector<einkorn::bf16> a(rows * depth, einkorn::bf16(1.5f)), b(cols * depth, einkorn::bf16(2.0f));
  std::vector<float> c(rows * cols);
  einkorn::matrix_view<const einkorn::bf16> weights(b.data(), cols, depth);
  einkorn::gemm(einkorn::matrix_view<const einkorn::bf16>(a.data(), rows, depth), transpose(weights),
                einkorn::matrix_view<float>(c.data(), rows, cols));
  std::printf("%g on %s\n", static_cast<double>(c[0]), einkorn::name(einkorn::active_isa()));
}
