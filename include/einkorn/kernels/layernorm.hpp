/// Layer normalisation and its gradients: a row is read from memory once and stays in L1 for the next passes.
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

/// The rest of the statistics, when the row's sum is known already.
template <class X>
inline moments moments_of(const X* x, index n, float sum, float eps) {
  if (n == 0) return {0, reciprocal_root(0, eps)};
  const float mean = sum / static_cast<float>(n);
  const vf center = broadcast(mean);
  four_sums squares;
  const auto add = [&](vf v, vf& total) {
    const vf d = v - center;
    total = fma(d, d, total);
  };
  for_vectors(
      n, squares, [&](index i, vf& total) { add(load(x + i), total); },
      [&](index i, index count, vf& total) { add(load_first(x + i, count, mean), total); });
  return {mean, reciprocal_root(squares.total() / static_cast<float>(n), eps)};
}

template <class X>
inline float sum_of(const X* x, index n) {
  four_sums sums;
  for_vectors(
      n, sums, [&](index i, vf& total) { total += load(x + i); },
      [&](index i, index count, vf& total) { total += load_first(x + i, count); });
  return sums.total();
}

/// y = (x - mean) * rstd * gamma + beta, and once more in Narrow (void: not). `next`, the row to come, is
/// brought towards L1 meanwhile, where the statistics would wait for it: 10 % faster from L2. The fused pass,
/// which reads two streams, and backward did not gain.
template <class X, class Y, class Narrow>
inline void normalise(const X* x, index n, moments m, const float* gamma, const float* beta, Y* y,
                      Narrow* narrow, const X* next) {
  const vf mean = broadcast(m.mean), rstd = broadcast(m.rstd);
  for_vectors(n, [&](index i, const auto& lanes) {
    if (next != nullptr) _mm_prefetch(reinterpret_cast<const char*>(next + i), _MM_HINT_T0);
    const vf value = fma((lanes(x + i) - mean) * rstd, lanes(gamma + i), lanes(beta + i));
    lanes(y + i, value);
    if constexpr (!std::is_void_v<Narrow>) lanes(narrow + i, value);
  });
}

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

template <class Narrow>
inline Narrow* narrow_row(const any_matrix& narrow, index row) {
  if constexpr (std::is_void_v<Narrow>) {
    return nullptr;
  } else {
    return row_of<Narrow>(narrow, row);
  }
}

// ---- backward

/// dgamma += d * xhat, dbeta += d; returns sum(d * gamma) and sum(d * gamma * xhat).
struct gradient_sums {
  float g, g_xhat;
};
inline gradient_sums add_gradients(const float* d, const float* x, index n, moments m, const float* gamma,
                                   float* dgamma, float* dbeta) {
  const vf mean = broadcast(m.mean), rstd = broadcast(m.rstd);
  four_sums g_sums;
  vf gx[2] = {broadcast(0.0f), broadcast(0.0f)};
  const auto add = [&](index i, const auto& lanes, vf& g_sum, vf& gx_sum) {
    const vf v = lanes(d + i), xhat = (lanes(x + i) - mean) * rstd, g = v * lanes(gamma + i);
    g_sum += g;
    gx_sum = fma(g, xhat, gx_sum);
    lanes(dgamma + i, fma(v, xhat, lanes(dgamma + i)));
    lanes(dbeta + i, lanes(dbeta + i) + v);
  };
  index i = 0;
  for (; i + 2 * vf_size <= n; i += 2 * vf_size) {
    add(i, whole_vector{}, g_sums.part[0], gx[0]);
    add(i + vf_size, whole_vector{}, g_sums.part[1], gx[1]);
  }
  for (; i + vf_size <= n; i += vf_size) add(i, whole_vector{}, g_sums.part[0], gx[0]);
  if (i < n) {
    // Lanes beyond the row have d == 0 and x == 0: xhat is finite there unless the statistics are not.
    const part_of_vector lanes{n - i};
    const vf v = lanes(d + i), xhat = (load_first(x + i, n - i, m.mean) - mean) * rstd;
    const vf g = v * lanes(gamma + i);
    g_sums.part[0] += g;
    gx[0] = fma(g, xhat, gx[0]);
    lanes(dgamma + i, fma(v, xhat, lanes(dgamma + i)));
    lanes(dbeta + i, lanes(dbeta + i) + v);
  }
  return {g_sums.total(), reduce_add(gx[0] + gx[1])};
}

/// rstd * (d * gamma - mean(g) - xhat * mean(g * xhat))
struct gradient_formula {
  const float *d, *x, *gamma;
  vf mean, rstd, mean_g, mean_gx;
  gradient_formula(const float* d_, const float* x_, const float* gamma_, index n, moments m,
                   gradient_sums sums)
      : d(d_),
        x(x_),
        gamma(gamma_),
        mean(broadcast(m.mean)),
        rstd(broadcast(m.rstd)),
        mean_g(broadcast(sums.g / static_cast<float>(n))),
        mean_gx(broadcast(sums.g_xhat / static_cast<float>(n))) {}
  template <class Lanes>
  vf operator()(index i, const Lanes& lanes) const {
    const vf xhat = (lanes(x + i) - mean) * rstd;
    return rstd * (fma(lanes(d + i), lanes(gamma + i), broadcast(0.0f) - mean_g) - xhat * mean_gx);
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

template <class X, class Y, class Narrow>
inline void forward_block(const detail::layernorm_args& a, index first, index last) {
  const index n = a.x.cols;
  for (index r = first; r < last; ++r) {
    const X* x = row_of<const X>(a.x, r);
    const moments m = moments_of(x, n, sum_of(x, n), a.eps);
    keep_moments(a, r, m);
    normalise(x, n, m, a.gamma, a.beta, row_of<Y>(a.y, r), narrow_row<Narrow>(a.narrow, r),
              r + 1 < last ? x + a.x.stride : nullptr);
  }
}

template <class D>
inline void backward_block(const detail::layernorm_backward_args& a, const block_memory& memory, index first,
                           index last) {
  const index n = a.x.cols;
  for (index r = first; r < last; ++r) {
    const float* d = f32_row(a.dy, r, memory.d_row);
    const float* x = f32_row(a.x, r, memory.x_row);
    const moments m{a.mean[r], a.rstd[r]};
    const gradient_sums sums = add_gradients(d, x, n, m, a.gamma, memory.dgamma, memory.dbeta);
    const gradient_formula gradient(d, x, a.gamma, n, m, sums);
    D* dx = row_of<D>(a.dx, r);
    for_vectors(n, [&](index i, const auto& lanes) { lanes(dx + i, gradient(i, lanes)); });
  }
}

}  // namespace layernorm_rows

inline void layernorm(const detail::layernorm_args& a) {
  const auto block = with_real(a.x.type, [&](auto x) {
    return layernorm_rows::with_outputs(a.y, a.narrow, [](auto* y, auto* narrow) {
      return &layernorm_rows::forward_block<decltype(x), std::remove_pointer_t<decltype(y)>,
                                            std::remove_pointer_t<decltype(narrow)> >;
    });
  });
  parallel_rows(a.exec, a.x.rows, a.x.cols, [&](index first, index last) { block(a, first, last); });
}

inline void layernorm_backward(const detail::layernorm_backward_args& a) {
  const auto block =
      with_real(a.dx.type, [](auto dx) { return &layernorm_rows::backward_block<decltype(dx)>; });
  layernorm_rows::sum_blocks(a, a.x.rows, a.x.cols, block);
}

EINKORN_END_LEVEL
