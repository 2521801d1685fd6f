/// The loop inside every GEMM on vector registers: a tile of C in registers, one k-group a step.
///
/// A k-group is 32 bits: 1 f32, 2 bf16 or i16, 4 bytes. A step loads two vectors of B and broadcasts one
/// group of A for each row: rows + 2 loads for 2 * rows multiply-adds, so that loads are not the limit. The
/// tile fills the register file: 14 x 2 accumulators, 2 of B and a broadcast of 32 registers (AVX-512), 6 x 2
/// of 16.
#pragma once

#include <utility>

#include "simd.hpp"

EINKORN_BEGIN_LEVEL

/// What a micro-kernel is given; strides of A and B in bytes, of acc (or narrow) in elements.
template <class Accumulator>
struct gemm_tile_args {
  index groups;                // k-groups
  const char* a;               // rows of k-groups
  index a_stride;              // from row to row
  const char* b;               // vectors of k-groups, one group for each column
  index b_stride;              // from k-group to k-group
  const Accumulator* initial;  // a row that every row of the tile starts from, or null for zeros
  Accumulator* acc;
  index acc_stride;
  bool accumulate;  // acc += the product, else acc = the product
  // What only the kernels on vector registers do:
  const char* next = nullptr;  // memory to fetch towards L2 meanwhile, from here on
  index next_step = 0;         // so many bytes a k-group; 0: nothing
  index a_step = 4;            // from k-group to k-group of A
  void* narrow = nullptr;      // not null: the product goes here as narrow_type (bf16 or fp16), not to acc
  dtype narrow_type = dtype::bf16;
  const float* bias = nullptr;  // of the columns, added to the sums of f32
};

/// What instructions without masks have in common: vectors are always whole.
struct no_mask {};
struct unmasked_instruction {
  static constexpr bool flips_s8 = false, masks = false;
  static no_mask mask(int) { return {}; }
};
/// The sum of the lanes of a vector of i32; wraps.
template <class Vector>
inline std::int32_t wrapping_sum(Vector x) {
  std::uint32_t total = 0, lanes[sizeof x / 4];
  __builtin_memcpy(lanes, &x, sizeof x);
  for (const std::uint32_t lane : lanes) total += lane;
  return static_cast<std::int32_t>(total);
}

/// Address of row r: three pointers and the multiples 1, 2, 3, 4 of the stride reach 15 rows.
template <int Row>
inline const char* gemm_row(const char* a0, const char* a1, const char* a2, index stride, index stride3) {
  const char* const base = Row < 5 ? a0 : Row < 10 ? a1 : a2;
  constexpr int i = Row % 5;
  return i == 0   ? base
         : i == 1 ? base + stride
         : i == 2 ? base + 2 * stride
         : i == 3 ? base + stride3
                  : base + 4 * stride;
}

template <class Instruction, int Rows, int Vectors>
struct gemm_tile {
  using accumulator = typename Instruction::accumulator;
  using vector = typename Instruction::vector;
  using group = typename Instruction::group;

  template <int Row>
  [[gnu::always_inline]] static void rows_from(vector (&acc)[Rows][Vectors], const group (&b)[Vectors],
                                               const char* a0, const char* a1, const char* a2, index stride,
                                               index stride3) {
    if constexpr (Row < Rows) {
      const group a = Instruction::broadcast(gemm_row<Row>(a0, a1, a2, stride, stride3));
      for (int v = 0; v < Vectors; ++v) acc[Row][v] = Instruction::multiply_add(acc[Row][v], a, b[v]);
      rows_from<Row + 1>(acc, b, a0, a1, a2, stride, stride3);
    }
  }

  /// put(row, vector, columns) for each vector of the tile; `last` of the last vector's columns are wanted.
  template <class Put>
  [[gnu::always_inline]] static void each_vector(int last, const Put& put) {
    if (last == Instruction::lanes || !Instruction::masks) {
      EINKORN_UNROLL
      for (int r = 0; r < Rows; ++r) {
        EINKORN_UNROLL
        for (int v = 0; v < Vectors; ++v) put(r, v, Instruction::lanes);
      }
    } else {
      EINKORN_UNROLL
      for (int r = 0; r < Rows; ++r) {
        EINKORN_UNROLL
        for (int v = 0; v < Vectors; ++v) put(r, v, v + 1 < Vectors ? Instruction::lanes : last);
      }
    }
  }

  template <class Narrow>
  [[gnu::always_inline]] static void store_narrow(const vector (&acc)[Rows][Vectors], Narrow* to,
                                                  index stride, int last) {
    each_vector(last, [&](int r, int v, int columns) {
      Narrow* const out = to + r * stride + v * Instruction::lanes;
      if (columns == Instruction::lanes)
        store(out, vf(acc[r][v]));
      else
        store_first(out, vf(acc[r][v]), columns);
    });
  }

  /// One k-group; the last vector of B is masked where B lies in place: there is nothing beyond its columns.
  template <class Mask>
  [[gnu::always_inline]] static void step(vector (&acc)[Rows][Vectors], const char* b, Mask mask,
                                          const char* a0, const char* a1, const char* a2, index stride,
                                          index stride3) {
    constexpr int vector_bytes = 4 * Instruction::lanes;
    group b_groups[Vectors];
    for (int v = 0; v + 1 < Vectors; ++v) b_groups[v] = Instruction::load_groups(b + v * vector_bytes);
    b_groups[Vectors - 1] = Instruction::load_groups(b + (Vectors - 1) * vector_bytes, mask);
    rows_from<0>(acc, b_groups, a0, a1, a2, stride, stride3);
  }

  /// g++ would keep an address for each row of each step, too many for the registers: it forgets them.
  [[gnu::always_inline]] static void advance(const char*& a0, const char*& a1, const char*& a2, index a_step,
                                             const char*& b, index b_stride) {
    a0 += a_step;
    a1 += a_step;
    a2 += a_step;
    b += b_stride;
    __asm__("" : "+r"(a0), "+r"(b));
    if (Rows > 5) __asm__("" : "+r"(a1));
    if (Rows > 10) __asm__("" : "+r"(a2));
  }

  /// The tile to memory: to [+]= acc.
  [[gnu::always_inline]] static void put(const vector (&acc)[Rows][Vectors], accumulator* to, index stride,
                                         bool accumulate, int last) {
    const auto each = [&](auto adds) __attribute__((always_inline)) {
      each_vector(
          last, [&](int r, int v, int columns) __attribute__((always_inline)) {
            accumulator* const out = to + r * stride + v * Instruction::lanes;
            if (columns == Instruction::lanes) {
              Instruction::store(out, adds ? Instruction::add(acc[r][v], Instruction::load(out)) : acc[r][v]);
            } else if constexpr (Instruction::masks) {
              const auto lanes = Instruction::mask(columns);
              Instruction::store(
                  out, adds ? Instruction::add(acc[r][v], Instruction::load(out, lanes)) : acc[r][v], lanes);
            }
          });
    };
    if (accumulate)
      each(std::true_type());
    else
      each(std::false_type());
  }

  template <class Mask>
  [[gnu::always_inline]] static void add_bias(vector (&acc)[Rows][Vectors], const float* bias,
                                              [[maybe_unused]] Mask mask) {
    EINKORN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      vector shift;
      if constexpr (Instruction::masks)
        shift = v + 1 < Vectors ? Instruction::load(bias + v * Instruction::lanes)
                                : Instruction::load(bias + v * Instruction::lanes, mask);
      else
        shift = Instruction::load(bias + v * Instruction::lanes);
      EINKORN_UNROLL
      for (int r = 0; r < Rows; ++r) acc[r][v] = Instruction::add(acc[r][v], shift);
    }
  }

  /// last: columns of the last vector.
  static void run(const gemm_tile_args<accumulator>& t, int last) {
    vector acc[Rows][Vectors];
    EINKORN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      EINKORN_UNROLL
      for (int v = 0; v < Vectors; ++v)
        acc[r][v] = t.initial != nullptr ? Instruction::load(t.initial + v * Instruction::lanes)
                                         : Instruction::zero();
    }
    const index stride = t.a_stride, a_step = t.a_step, b_stride = t.b_stride;
    index stride3 = 3 * stride, ahead = 8 * b_stride;
    __asm__("" : "+r"(stride3), "+r"(ahead));  // registers of their own, not additions a step
    const auto b_mask = Instruction::mask(last);
    const char* next = t.next != nullptr ? t.next : t.b;
    const index next_step = 2 * t.next_step;
    const char *a0 = t.a, *a1 = a0 + 5 * stride, *a2 = a0 + 10 * stride, *b = t.b;
    // B comes from L2, and the hardware prefetcher starts late in a panel: 8 steps ahead gives 1 to 5 %. The
    // last byte, since rows of B in place may cross a line, whose first the panel before fetched.
    const auto one_step = [&]() __attribute__((always_inline)) {
      for (int byte = 0; byte < Vectors * 4 * Instruction::lanes; byte += 64)
        __builtin_prefetch(b + ahead + byte + 63);
      step(acc, b, b_mask, a0, a1, a2, stride, stride3);
      advance(a0, a1, a2, a_step, b, b_stride);
    };
    const auto fetch_next = [&](index bytes) __attribute__((always_inline)) {
      __builtin_prefetch(next, 0, 2);
      next += bytes;
    };
    const auto two_steps = [&]() __attribute__((always_inline)) {
      fetch_next(next_step);
      one_step();
      one_step();
    };
    index g = t.groups;
    if constexpr (Rows * Vectors <= 12) {  // few multiply-adds a step: what else is in the loop counts
      for (; g >= 4; g -= 4) {
        two_steps();
        two_steps();
      }
    }
    for (; g > 0; --g) {
      fetch_next(t.next_step);
      one_step();
    }
    if constexpr (std::is_same_v<accumulator, float>) {
      if (t.bias != nullptr) add_bias(acc, t.bias, b_mask);
      if (t.narrow != nullptr) {
        if (t.narrow_type == dtype::bf16)
          store_narrow(acc, static_cast<bf16*>(t.narrow), t.acc_stride, last);
        else
          store_narrow(acc, static_cast<fp16*>(t.narrow), t.acc_stride, last);
        return;
      }
    }
    put(acc, t.acc, t.acc_stride, t.accumulate, last);
  }
};

/// run[r - 1] is run() of Tile<r>, for 1 to Rows rows.
template <template <int> class Tile, int Rows, class = std::make_integer_sequence<int, Rows>>
struct gemm_tiles;
template <template <int> class Tile, int Rows, int... R>
struct gemm_tiles<Tile, Rows, std::integer_sequence<int, R...>> {
  static constexpr decltype(&Tile<1>::run) run[] = {&Tile<R + 1>::run...};
};

/// A micro-kernel (see gemm_driver.hpp) from one multiply-add instruction and a number of rows.
template <class Instruction, int Rows>
struct gemm_vector_kernel {
  using instruction = Instruction;
  using element = typename Instruction::element;
  using accumulator = typename Instruction::accumulator;
  static constexpr int mr = Rows, nr = 2 * Instruction::lanes, lanes = Instruction::lanes;
  static constexpr int k_group = 4 / static_cast<int>(sizeof(element)), k_step = k_group;
  static constexpr bool flips_s8 = Instruction::flips_s8, a_panels = true;
  static constexpr bool converts = std::is_same_v<accumulator, float>, masks = Instruction::masks;
  struct session {};  // nothing to set up

  static void run(int rows, int cols, const gemm_tile_args<accumulator>& t) {
    if (cols > lanes)
      gemm_tiles<two, Rows>::run[rows - 1](t, cols - lanes);
    else
      gemm_tiles<one, Rows>::run[rows - 1](t, cols);
  }

 private:
  template <int R>
  using one = gemm_tile<Instruction, R, 1>;
  template <int R>
  using two = gemm_tile<Instruction, R, 2>;
};

EINKORN_END_LEVEL
