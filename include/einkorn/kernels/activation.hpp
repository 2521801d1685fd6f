/// Activations and their derivatives, one pass over the matrices; column sums by blocks of rows.
#pragma once

#include "../activation.hpp"
#include "../detail/level.hpp"
#include "elements.hpp"
#include "math.hpp"
#include "parallel.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

/// body(f, f') with the activation and its derivative as functions of a vector; some take two as well.
template <class Body>
inline void with_activation(activation act, const Body& body) {
  const auto zero = [] { return broadcast(0.0f); };
  switch (act) {
    case activation::gelu:
      return body([](auto x) { return gelu(x); }, [](vf x) { return gelu_derivative(x); });
    case activation::gelu_tanh:
      return body([](vf x) { return gelu_tanh(x); }, [](vf x) { return gelu_tanh_derivative(x); });
    case activation::relu:
      return body([zero](vf x) { return math::at_least(zero(), x); },
                  [zero](vf x) {  // NaN stays
                    return math::select_less(zero(), x, broadcast(1.0f), zero() * math::at_least(zero(), x));
                  });
    case activation::tanh:
      return body([](vf x) { return tanh(x); },
                  [](vf x) {
                    const vf t = tanh(x);
                    return math::minus_product(t, t, broadcast(1.0f));
                  });
    default:
      return body([](vf x) { return x; }, [](vf) { return broadcast(1.0f); });
  }
}

inline void activate(const detail::activate_args& args) {
  const bool contiguous = args.x.stride == args.x.cols && args.y.stride == args.x.cols;
  const element_tasks tasks(args.exec, args.x.rows, args.x.cols, contiguous);
  with_activation(args.act, [&](auto f, auto) {
    with_rows(
        [&](auto x, auto y) {
          parallel_for(args.exec, tasks.count, [&](index task) {
            tasks.run(task, [&](index row, index first, index width) {
              const auto in = x.at(row, first);
              const auto out = y.at(row, first);
              const bool past_caches = args.streams && can_stream(out);
              index i = 0;
              for (; i + 2 * vf_size <= width; i += 2 * vf_size)
                put_two(out + i, of_both(f, load_two(in + i)), past_caches);
              for (; i + vf_size <= width; i += vf_size) put(out + i, f(load(in + i)), past_caches);
              if (i < width) store_first(out + i, f(load_first(in + i, width - i)), width - i);
            });
            if (args.streams) streaming_done();
          });
        },
        args.x, args.y);
  });
}

/// What column sums add up, as three functions that may also store what they see, past the caches too: of a
/// vector, of two (with Separates: into even and odd elements), and of the first `count` lanes of the last
/// one, zeros in the others.
template <bool Separates, class One, class Two, class First>
struct column_values {
  static constexpr bool separates = Separates;
  One one;
  Two two;
  First first;
};
template <bool Separates, class One, class Two, class First>
column_values<Separates, One, Two, First> make_column_values(One one, Two two, First first) {
  return {one, two, first};
}

/// out (+)= the column sums of `value`, whose rows are rows x cols.
template <class Value>
inline void sum_columns(const executor& exec, index rows, index cols, float* partial, float* out,
                        bool accumulate, const Value& value) {
  constexpr index chunk = 4096;  // columns of a task: the sums stay in L1, reads stay long
  const index block_rows = detail::column_sum_block_rows(rows), blocks = detail::column_sum_blocks(rows);
  const index stride = detail::column_sum_partial_stride(cols), chunks = (cols + chunk - 1) / chunk;
  parallel_for(exec, blocks * chunks, [&](index task) {
    const index block = task / chunks, first_col = task % chunks * chunk;
    const index end_col = first_col + chunk < cols ? first_col + chunk : cols;
    const index first_row = block * block_rows;
    const index end_row = first_row + block_rows < rows ? first_row + block_rows : rows;
    float* const sums = partial + block * stride;  // padded to whole vectors
    for (index row = first_row; row < end_row; ++row) {
      const auto add = [&](index col, vf v) {
        store(sums + col, row == first_row ? v : load(sums + col) + v);
      };
      index col = first_col;
      for (; col + 2 * vf_size <= end_col; col += 2 * vf_size) {
        const two_vectors v = value.two(row, col);
        add(col, v.first);
        add(col + vf_size, v.second);
      }
      for (; col + vf_size <= end_col; col += vf_size) add(col, value.one(row, col));
      if (col < end_col) add(col, value.first(row, col, end_col - col));
    }
    streaming_done();
  });
  parallel_for(exec, chunks, [&](index task) {
    const index end_col = (task + 1) * chunk < cols ? (task + 1) * chunk : cols;
    const auto total = [&](index col) {
      for (index gap = 1; gap < blocks; gap *= 2)
        for (index block = 0; block + gap < blocks; block += 2 * gap) {
          float* const sums = partial + block * stride + col;
          store(sums, load(sums) + load(sums + gap * stride));
        }
      return blocks > 0 ? load(partial + col) : broadcast(0.0f);
    };
    const auto write = [&](index col, vf sum) { store(out + col, accumulate ? load(out + col) + sum : sum); };
    index col = task * chunk;
    for (; col + 2 * vf_size <= end_col; col += 2 * vf_size) {
      two_vectors sums{total(col), total(col + vf_size)};
      if constexpr (Value::separates) sums = interleave(sums);
      write(col, sums.first);
      write(col + vf_size, sums.second);
    }
    for (; col + vf_size <= end_col; col += vf_size) write(col, total(col));
    if (col < end_col) {
      const vf sum = total(col);
      const index count = end_col - col;
      store_first(out + col, accumulate ? load_first(out + col, count) + sum : sum, count);
    }
  });
}

inline void activate_backward(const detail::activate_backward_args& args) {
  const index rows = args.pre.rows, cols = args.pre.cols;
  with_activation(args.act, [&](auto, auto derivative) {
    with_rows(
        [&](auto dy, auto pre, auto dx) {
          const bool past_caches = args.streams && can_stream(dx.at(0, 0)) && args.dx.stride % 32 == 0;
          const auto one = [&](index row, index col) {
            const vf d = load(dy.at(row, col)) * derivative(load(pre.at(row, col)));
            put(dx.at(row, col), d, past_caches);
            return d;
          };
          const auto two = [&](index row, index col) {
            const two_vectors d = load_two(dy.at(row, col)) * of_both(derivative, load_two(pre.at(row, col)));
            put_two(dx.at(row, col), d, past_caches);
            return d;
          };
          const auto first = [&](index row, index col, index count) {
            const vf d = load_first(dy.at(row, col), count) * derivative(load_first(pre.at(row, col), count));
            store_first(dx.at(row, col), d, count);
            return d;
          };
          if (args.db != nullptr) {
            sum_columns(args.exec, rows, cols, args.partial, args.db, true,
                        make_column_values<separates<decltype(dx.at(0, 0))> >(one, two, first));
            return;
          }
          const bool contiguous = args.dy.stride == cols && args.pre.stride == cols && args.dx.stride == cols;
          const element_tasks tasks(args.exec, rows, cols, contiguous);
          parallel_for(args.exec, tasks.count, [&](index task) {
            tasks.run(task, [&](index row, index begin, index width) {
              index col = begin;
              const index end = begin + width;
              for (; col + 2 * vf_size <= end; col += 2 * vf_size) two(row, col);
              for (; col + vf_size <= end; col += vf_size) one(row, col);
              if (col < end) first(row, col, end - col);
            });
            if (args.streams) streaming_done();
          });
        },
        args.dy, args.pre, args.dx);
  });
}

inline void column_sum(const detail::column_sum_args& args) {
  with_rows(
      [&](auto x) {
        const auto one = [&](index row, index col) { return load(x.at(row, col)); };
        const auto two = [&](index row, index col) { return load_two(x.at(row, col)); };
        const auto first = [&](index row, index col, index count) {
          return load_first(x.at(row, col), count);
        };
        sum_columns(args.exec, args.x.rows, args.x.cols, args.partial, args.out, args.accumulate,
                    make_column_values<separates<decltype(x.at(0, 0))> >(one, two, first));
      },
      args.x);
}

EINKORN_END_LEVEL
