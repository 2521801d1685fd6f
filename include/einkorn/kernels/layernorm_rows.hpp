/// What layer normalisation is made of, forward and backward: a row is read from memory once and stays in L1
/// for the next passes.
#pragma once

#include "../detail/layernorm_args.hpp"
#include "rows.hpp"

EINKORN_BEGIN_LEVEL

namespace layernorm_rows {

struct moments {
  float mean, rstd;
};

inline float reciprocal_root(float variance, float eps) {
  return 1 / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(variance + eps)));
}

/// The statistics, when the row's sum is known already.
template <class X>
inline moments moments_of(const X* x, index n, float sum, float eps) {
  if (n == 0) return {0, reciprocal_root(0, eps)};
  const float mean = sum / static_cast<float>(n);
  const vf center = broadcast(mean);
  const float squares = sum_row(x, n, mean, [&](vf v, vf& total) {
    const vf d = v - center;
    total = fma(d, d, total);
  });
  return {mean, reciprocal_root(squares / static_cast<float>(n), eps)};
}

template <class X>
inline float sum_of(const X* x, index n) {
  return sum_row(x, n, 0.0f, [](vf v, vf& total) { total += v; });
}

/// The row after `row` of a matrix that comes from memory: its lines are fetched while `row` is worked on,
/// since the hardware's prefetchers pause together with the reads. Else `row` itself, which costs less than a
/// branch.
class next_row {
 public:
  next_row(const any_matrix& m, index row, index last, bool from_memory)
      : bytes_(size_of(m.type)),
        data_(static_cast<const char*>(m.data) +
              (from_memory && row + 1 < last ? row + 1 : row) * m.stride * bytes_) {}
  /// The line of column i. Always inlined: g++ takes a call that only prefetches for one without effect.
  [[gnu::always_inline]] void fetch(index i) const { __builtin_prefetch(data_ + i * bytes_); }

 private:
  index bytes_;
  const char* data_;
};

/// Where a row of y and its narrow copy (void: none) go.
template <class Y, class Narrow>
struct output_row {
  Y* y;
  Narrow* narrow = nullptr;
  bool y_past_caches, narrow_past_caches = false;
  output_row(const any_matrix& y_, const any_matrix& narrow_, index row, bool streams_y, bool streams_narrow)
      : y(row_of<Y>(y_, row)), y_past_caches(streams_y && can_stream(y)) {
    if constexpr (!std::is_void_v<Narrow>) {
      narrow = row_of<Narrow>(narrow_, row);
      narrow_past_caches = streams_narrow && can_stream(narrow);
    }
  }
  /// The columns [first, first + count) of both: value(i, all_lanes) with i from 0 on. One after the other:
  /// in one loop two rows that pass the caches by, with the rounding between them, take a third longer on
  /// Zen 3.
  template <class Value>
  [[gnu::always_inline]] void write(index first, index count, const Value& value) const {
    if constexpr (std::is_void_v<Narrow>) {
      write_row(y + first, count, y_past_caches, value);
    } else {
      constexpr index chunk = 1024;
      alignas(64) float kept[chunk];
      for (index from = 0; from < count; from += chunk) {
        const index width = count - from < chunk ? count - from : chunk;
        for_vectors(
            width, [&](index i, const auto& lanes) __attribute__((always_inline)) {
              const vf v = value(from + i, lanes);
              lanes(y + first + from + i, v, y_past_caches);
              lanes(kept + i, v);
            });
        write_row(narrow + first + from, width, narrow_past_caches,
                  [&](index i, const auto& lanes) { return lanes(kept + i); });
      }
    }
  }
};

/// body(Y*, Narrow*) with null pointers of the types: y alone in any type, or f32 with a narrow copy.
template <class Body>
inline auto with_outputs(const any_matrix& y, const any_matrix& narrow, const Body& body) {
  float* const f32 = nullptr;
  if (!narrow)
    return with_real(y.type, [&](auto t) {
      return body(static_cast<decltype(t)*>(nullptr), static_cast<void*>(nullptr));
    });
  return narrow.type == dtype::bf16 ? body(f32, static_cast<bf16*>(nullptr))
                                    : body(f32, static_cast<fp16*>(nullptr));
}

template <class Args>
inline void keep_moments(const Args& a, index row, moments m) {
  if (a.mean != nullptr) a.mean[row] = m.mean;
  if (a.rstd != nullptr) a.rstd[row] = m.rstd;
}

// ---- backward

/// dgamma += d * xhat, dbeta += d; returns sum(d * gamma) and sum(d * gamma * (x - mean)).
struct gradient_sums {
  float g, gx;
};
template <class D, class X>
inline gradient_sums add_gradients(const D* d, const X* x, index n, moments m, const float* gamma,
                                   float* dgamma, float* dbeta) {
  const vf mean = broadcast(m.mean), rstd = broadcast(m.rstd);
  vf g_sum[2] = {broadcast(0.0f), broadcast(0.0f)}, gx_sum[2] = {broadcast(0.0f), broadcast(0.0f)};
  const auto add = [&](index i, const auto& lanes, vf centered, vf& g_total, vf& gx_total) {
    const vf v = lanes(d + i), g = v * lanes(gamma + i);
    g_total += g;
    gx_total = fma(g, centered, gx_total);
    lanes(dgamma + i, fma(v, centered * rstd, lanes(dgamma + i)));
    lanes(dbeta + i, lanes(dbeta + i) + v);
  };
  index i = 0;
  for (; i + 2 * vf_size <= n; i += 2 * vf_size) {
    add(i, whole_vector{}, load(x + i) - mean, g_sum[0], gx_sum[0]);
    add(i + vf_size, whole_vector{}, load(x + i + vf_size) - mean, g_sum[1], gx_sum[1]);
  }
  for (; i + vf_size <= n; i += vf_size) add(i, whole_vector{}, load(x + i) - mean, g_sum[0], gx_sum[0]);
  // Lanes beyond the row have d == 0 and x == mean: they add 0 unless the statistics are not finite.
  if (i < n) add(i, part_of_vector{n - i}, load_first(x + i, n - i, m.mean) - mean, g_sum[0], gx_sum[0]);
  return {reduce_add(g_sum[0] + g_sum[1]), reduce_add(gx_sum[0] + gx_sum[1])};
}

/// dx = rstd * (d * gamma - mean(g) - xhat * mean(g * xhat)) with g = d * gamma, as
/// rstd * d * gamma - ((x - mean) * slope + shift).
template <class D, class X>
struct gradient_formula {
  const D* d;
  const X* x;
  const float* gamma;
  vf mean, rstd, shift, slope;
  gradient_formula(const D* d_, const X* x_, const float* gamma_, index n, moments m, gradient_sums sums)
      : d(d_),
        x(x_),
        gamma(gamma_),
        mean(broadcast(m.mean)),
        rstd(broadcast(m.rstd)),
        shift(broadcast(m.rstd * (sums.g / static_cast<float>(n)))),
        slope(broadcast(m.rstd * m.rstd * (m.rstd * (sums.gx / static_cast<float>(n))))) {}
  template <class Lanes>
  [[gnu::always_inline]] vf operator()(index i, const Lanes& lanes) const {
    const vf rest = fma(lanes(x + i) - mean, slope, shift);
    return fma(lanes(d + i) * lanes(gamma + i), rstd, broadcast(0.0f) - rest);
  }
};

template <class T>
inline void widen_row(const T* from, float* to, index n) {
  for_vectors(n, [&](index i, const auto& lanes) { lanes(to + i, lanes(from + i)); });
}

/// The row itself when it is f32, else its values in `buffer`.
inline const float* f32_row(const any_matrix& m, index row, float* buffer) {
  if (m.type == dtype::f32) return row_of<const float>(m, row);
  if (m.type == dtype::bf16) {
    widen_row(row_of<const bf16>(m, row), buffer, m.cols);
  } else {
    widen_row(row_of<const fp16>(m, row), buffer, m.cols);
  }
  return buffer;
}

/// The sums of one block of rows, and two rows of buffer, in the scratch memory of the call.
struct block_memory {
  float *dgamma, *dbeta, *d_row, *x_row;
  block_memory(float* partial, index block, index cols) {
    const index stride = detail::layernorm_partial_stride(cols);
    dgamma = partial + 4 * block * stride;
    dbeta = dgamma + stride;
    d_row = dbeta + stride;
    x_row = d_row + stride;
  }
  void clear(index cols) const {
    for_vectors(cols, [&](index i, const auto& lanes) {
      lanes(dgamma + i, broadcast(0.0f));
      lanes(dbeta + i, broadcast(0.0f));
    });
  }
};

/// body(a, memory, first, last) for each block of rows; then dgamma and dbeta from the blocks' sums, added in
/// a tree whose shape follows from the number of blocks.
template <class Args>
inline void sum_blocks(const Args& a, index rows, index cols,
                       void (*body)(const Args&, const block_memory&, index first, index last)) {
  const index block_rows = detail::layernorm_block_rows(rows), blocks = detail::layernorm_blocks(rows);
  parallel_for(a.exec, blocks, [&](index block) {
    const block_memory memory(a.partial, block, cols);
    memory.clear(cols);
    const index first = block * block_rows, last = first + block_rows;
    body(a, memory, first, last < rows ? last : rows);
  });
  constexpr index chunk = 512;
  parallel_for(a.exec, (cols + chunk - 1) / chunk, [&](index task) {
    const index first = task * chunk, count = cols - first < chunk ? cols - first : chunk;
    for (index step = 1; step < blocks; step *= 2) {
      for (index block = 0; block + step < blocks; block += 2 * step) {
        const block_memory to(a.partial, block, cols), from(a.partial, block + step, cols);
        for_vectors(count, [&](index i, const auto& lanes) {
          lanes(to.dgamma + first + i, lanes(to.dgamma + first + i) + lanes(from.dgamma + first + i));
          lanes(to.dbeta + first + i, lanes(to.dbeta + first + i) + lanes(from.dbeta + first + i));
        });
      }
    }
    const block_memory sums(a.partial, 0, cols);
    for_vectors(count, [&](index i, const auto& lanes) {
      vf dgamma = blocks > 0 ? lanes(sums.dgamma + first + i) : broadcast(0.0f);
      vf dbeta = blocks > 0 ? lanes(sums.dbeta + first + i) : broadcast(0.0f);
      if (a.accumulate) {
        dgamma += lanes(a.dgamma + first + i);
        dbeta += lanes(a.dbeta + first + i);
      }
      lanes(a.dgamma + first + i, dgamma);
      lanes(a.dbeta + first + i, dbeta);
    });
  });
}

}  // namespace layernorm_rows

EINKORN_END_LEVEL
