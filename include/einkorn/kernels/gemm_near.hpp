/// Tiles of products whose operands are near: A as it lies in L1 or L2, and of B a strip of two vectors of
/// columns, as it lies or just packed, in L1. Nothing is fetched ahead.
///
/// What counts here is what surrounds the multiply-adds. A strip goes past all rows of A, so that B is read
/// from L2 once, and one packed strip after another takes the same memory. Tiles are mr rows high; where one
/// vector of columns is left, 12, since fewer sums would wait for each other. Each element is summed in the
/// order of gemm_tile.hpp.
#pragma once

#include "gemm_tile.hpp"

EINKORN_BEGIN_LEVEL

template <class Instruction, int Rows, int Vectors>
struct gemm_near_tile {
  using accumulator = typename Instruction::accumulator;
  using tile = gemm_tile<Instruction, Rows, Vectors>;

  /// Of t: groups, strides, accumulate. last: columns of the last vector.
  static void run(const gemm_tile_args<accumulator>& t, const char* a0, const char* b, accumulator* c,
                  int last) {
    typename Instruction::vector acc[Rows][Vectors];
    EINKORN_UNROLL
    for (int i = 0; i < Rows * Vectors; ++i) acc[i / Vectors][i % Vectors] = Instruction::zero();
    const index stride = t.a_stride, b_stride = t.b_stride, c_stride = t.acc_stride;
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
  using args = gemm_tile_args<accumulator>;

  /// C = A B or C += A B for all rows and up to nr columns, whole vectors of them or masked. Of t: groups, a,
  /// b, strides, acc, accumulate.
  static void run(const args& t, index rows, index cols) {
    accumulator* c = t.acc;
    each_tile(
        t, rows, cols,
        [&](auto run_tile, const char* a, index, index height, int last) __attribute__((always_inline)) {
          run_tile(t, a, t.b, c, last);
          c += height * t.acc_stride;
        });
  }

  /// finish(row, rows, sums, stride) with the sums of A B, a tile after another.
  template <class Finish>
  [[gnu::noinline]] static void run(args t, index rows, index cols, const Finish& finish) {
    alignas(64) accumulator sums[std::max(most<1>, 2 * most<2>) * lanes];
    t.acc_stride = cols > lanes ? Kernel::nr : lanes;
    t.accumulate = false;
    each_tile(t, rows, cols, [&](auto run_tile, const char* a, index row, index height, int last) {
      run_tile(t, a, t.b, sums, last);
      finish(row, height, static_cast<const accumulator*>(sums), t.acc_stride);
    });
  }

 private:
  static constexpr int lanes = Kernel::lanes;
  template <int Vectors>
  static constexpr int most = Vectors == 1 ? 12 : Kernel::mr;
  template <int Vectors>
  struct tile {
    template <int Rows>
    using of = gemm_near_tile<typename Kernel::instruction, Rows, Vectors>;
  };

  /// use(run_tile, a, row, height, last) for tiles of about equal height.
  template <int Vectors, class Use>
  [[gnu::always_inline]] static void each_tile(const args& t, unsigned rows, int last, const Use& use) {
    const char* a = t.a;
    unsigned left = rows;
    for (unsigned tiles = (rows + most<Vectors> - 1) / most<Vectors>; tiles > 0; --tiles) {
      const unsigned height = tiles == 1 ? left : (left + tiles - 1) / tiles;
      use(gemm_tiles<tile<Vectors>::template of, most<Vectors>>::run[height - 1], a, rows - left, height,
          last);
      a += height * t.a_stride;
      left -= height;
    }
  }
  template <class Use>
  [[gnu::always_inline]] static void each_tile(const args& t, index rows, index cols, const Use& use) {
    if (cols > lanes)
      each_tile<2>(t, static_cast<unsigned>(rows), static_cast<int>(cols) - lanes, use);
    else
      each_tile<1>(t, static_cast<unsigned>(rows), static_cast<int>(cols), use);
  }
};

EINKORN_END_LEVEL
