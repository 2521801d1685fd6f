/// Small products whose operands lie as the micro-kernel reads them, and near: nothing is packed or fetched
/// ahead, and sums go straight to C.
///
/// What counts here is what surrounds the multiply-adds. Tiles are 2 vectors wide and mr rows high; a last,
/// single vector of columns takes 12 rows at once, since fewer sums would wait for each other. Columns are
/// the outer loop, so that a strip of B stays in L1. Each element is summed in the order of gemm_tile.hpp.
#pragma once

#include "gemm_tile.hpp"

EINKORN_BEGIN_LEVEL

/// Strides of A and B in bytes, of C in elements.
struct gemm_near_args {
  index groups;  // k-groups
  index a_stride, b_stride, c_stride;
  bool accumulate;  // C += A B
};

template <class Instruction, int Rows, int Vectors>
struct gemm_near_tile {
  using accumulator = typename Instruction::accumulator;
  using tile = gemm_tile<Instruction, Rows, Vectors>;

  /// last: columns of the last vector.
  static void run(const gemm_near_args& t, const char* a0, const char* b, accumulator* c, int last) {
    typename Instruction::vector acc[Rows][Vectors];
    EINKORN_UNROLL
    for (int i = 0; i < Rows * Vectors; ++i) acc[i / Vectors][i % Vectors] = Instruction::zero();
    const index stride = t.a_stride, b_stride = t.b_stride, c_stride = t.c_stride;
    index stride3 = 3 * stride;
    __asm__("" : "+r"(stride3));
    const auto mask = Instruction::mask(last);
    const char *a1 = a0 + 5 * stride, *a2 = a0 + 10 * stride;
    const auto step = [&]() __attribute__((always_inline)) {
      tile::step(acc, b, mask, a0, a1, a2, stride, stride3);
      tile::advance(a0, a1, a2, 4, b, b_stride);
    };
    index g = t.groups;
    for (; g >= 4; g -= 4) {
      step();
      step();
      step();
      step();
    }
    for (; g > 0; --g) step();
    tile::put(acc, c, c_stride, t.accumulate, last);
  }
};

template <class Kernel>
class gemm_near {
 public:
  using accumulator = typename Kernel::accumulator;

  /// b_step: bytes from nr columns of B to the next.
  static void run(const gemm_near_args& t, index rows, index cols, const char* a, const char* b, index b_step,
                  accumulator* c) {
    for (; cols > lanes; cols -= Kernel::nr, b += b_step, c += Kernel::nr)
      strip<2>(t, rows, a, b, c, cols < Kernel::nr ? static_cast<int>(cols) - lanes : lanes);
    if (cols > 0) strip<1>(t, rows, a, b, c, static_cast<int>(cols));
  }

 private:
  static constexpr int lanes = Kernel::lanes;
  using run_function = void (*)(const gemm_near_args&, const char*, const char*, accumulator*, int);

  template <int Vectors, int... R>
  struct table {
    static constexpr run_function run[] = {&gemm_near_tile<typename Kernel::instruction, R, Vectors>::run...};
  };
  template <int Vectors, int R, int... Rest>
  struct make_table : make_table<Vectors, R - 1, R, Rest...> {};
  template <int Vectors, int... Rest>
  struct make_table<Vectors, 0, Rest...> : table<Vectors, Rest...> {};

  /// All rows of up to 2 vectors of columns, in tiles of about equal height.
  template <int Vectors>
  static void strip(const gemm_near_args& t, index rows, const char* a, const char* b, accumulator* c,
                    int last) {
    constexpr unsigned most = Vectors == 1 ? 12 : Kernel::mr;
    unsigned left = static_cast<unsigned>(rows);
    for (unsigned tiles = (left + most - 1) / most; tiles > 0; --tiles) {
      const unsigned height = tiles == 1 ? left : (left + tiles - 1) / tiles;
      make_table<Vectors, most>::run[height - 1](t, a, b, c, last);
      a += height * t.a_stride;
      c += height * t.c_stride;
      left -= height;
    }
  }
};

EINKORN_END_LEVEL
