/// What the row-wise kernels share: element types chosen outside the loops, and rows cut into tasks.
#pragma once

#include <type_traits>

#include "parallel.hpp"
#include "two_vectors.hpp"

EINKORN_BEGIN_LEVEL

/// body(T{}) for the type that `type` names; the checks have let only these three pass. The kernels get the
/// function for their types from it once and call that for each block of rows.
template <class Body>
inline auto with_real(dtype type, const Body& body) {
  if (type == dtype::f32) return body(float{});
  return type == dtype::bf16 ? body(bf16{}) : body(fp16{});
}

template <class T>
inline T* row_of(const any_matrix& m, index row) {
  return static_cast<T*>(m.data) + row * m.stride;
}

/// How many elements a task gets, where no sum goes beyond a row: one task a thread for a small matrix, up to
/// four for a large one. Shorter tasks balance better, longer ones read and write memory in longer runs.
inline index task_elements(const executor& exec, index elements) {
  const index threads = exec.threads > 0 ? exec.threads : 1;
  const index pieces = elements / (threads * 32768);
  const index tasks = threads * (pieces < 1 ? 1 : pieces > 4 ? 4 : pieces);
  const index share = (elements + tasks - 1) / tasks;
  return share < 4096 ? 4096 : share;
}

/// body(first_row, last_row) for all rows
template <class Body>
inline void parallel_rows(const executor& exec, index rows, index cols, const Body& body) {
  index step = cols > 0 ? (task_elements(exec, rows * cols) + cols - 1) / cols : rows;
  if (step < 1) step = 1;
  parallel_for(exec, (rows + step - 1) / step, [&](index task) {
    const index first = task * step, last = first + step;
    body(first, last < rows ? last : rows);
  });
}

/// Four sums beside each other, because one would wait for the latency of its own additions.
struct four_sums {
  vf part[4] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  float total() const { return reduce_add((part[0] + part[1]) + (part[2] + part[3])); }
};

/// The sum over x[0, n) of what add(v, sum) adds to a sum for a vector v, eight sums in turn; the last lanes
/// of an incomplete vector are `fill`.
template <class X, class Add>
inline float sum_row(const X* x, index n, float fill, const Add& add) {
  four_sums sums, more;
  index i = 0;
  for (; i + 8 * vf_size <= n; i += 8 * vf_size) {
    EINKORN_UNROLL
    for (int k = 0; k < 4; k += 2) {
      const two_vectors a = load_two(x + i + k * vf_size), b = load_two(x + i + (k + 4) * vf_size);
      add(a.first, sums.part[k]);
      add(a.second, sums.part[k + 1]);
      add(b.first, more.part[k]);
      add(b.second, more.part[k + 1]);
    }
  }
  EINKORN_UNROLL
  for (int k = 0; k < 4; ++k) sums.part[k] += more.part[k];
  for (; i + vf_size <= n; i += vf_size) add(load(x + i), sums.part[0]);
  if (i < n) add(load_first(x + i, n - i, fill), sums.part[1]);
  return sums.total();
}

/// body(i, all_lanes) over [0, n): all_lanes(p) loads and all_lanes(p, v) stores a whole vector, or what is
/// left of the row in the last call. p is a pointer, or another row that has load and store.
struct whole_vector {
  template <class P>
  vf operator()(P p) const {
    return load(p);
  }
  template <class P>
  void operator()(P p, vf value) const {
    store(p, value);
  }
  template <class P>
  void operator()(P p, vf value, bool past_caches) const {
    put(p, value, past_caches);
  }
  vf within_row(vf value) const { return value; }
};
struct part_of_vector {
  index count;
  template <class P>
  vf operator()(P p) const {
    return load_first(p, count);
  }
  template <class P>
  void operator()(P p, vf value, bool /*past_caches*/ = false) const {
    store_first(p, value, count);
  }
  /// 0 in the lanes beyond the row.
  vf within_row(vf value) const {
    float lanes[vf_size];
    store(lanes, value);
    return load_first(lanes, count);
  }
};
template <class Body>
[[gnu::always_inline]] inline void for_vectors(index n, const Body& body) {
  index i = 0;
  for (; i + vf_size <= n; i += vf_size) body(i, whole_vector{});
  if (i < n) body(i, part_of_vector{n - i});
}
/// body(i, all_lanes, sum) with four sums in turn.
template <class Body>
[[gnu::always_inline]] inline void for_vectors(index n, four_sums& sums, const Body& body) {
  index i = 0;
  for (; i + 4 * vf_size <= n; i += 4 * vf_size) {
    body(i, whole_vector{}, sums.part[0]);
    body(i + vf_size, whole_vector{}, sums.part[1]);
    body(i + 2 * vf_size, whole_vector{}, sums.part[2]);
    body(i + 3 * vf_size, whole_vector{}, sums.part[3]);
  }
  for (; i + vf_size <= n; i += vf_size) body(i, whole_vector{}, sums.part[0]);
  if (i < n) body(i, part_of_vector{n - i}, sums.part[1]);
}

/// y[i] = value(i, all_lanes) over [0, n), two vectors at a time: bf16 is rounded and stored together.
/// `value` is called in four places: what is more than a few instructions says always_inline, or what it
/// captures by reference is read again after every store.
template <class P, class Value>
[[gnu::always_inline]] inline void write_row(P y, index n, bool past_caches, const Value& value) {
  index i = 0;
  for (; i + 2 * vf_size <= n; i += 2 * vf_size) {
    const vf first = value(i, whole_vector{}), second = value(i + vf_size, whole_vector{});
    put_in_order(y + i, {first, second}, past_caches);
  }
  for (; i + vf_size <= n; i += vf_size) put(y + i, value(i, whole_vector{}), past_caches);
  if (i < n) store_first(y + i, value(i, part_of_vector{n - i}), n - i);
}

EINKORN_END_LEVEL
