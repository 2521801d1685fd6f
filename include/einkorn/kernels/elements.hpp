/// Rows whose element type is known at compile time or only at run time, behind the same three functions;
/// how an element-wise pass over a matrix is cut into tasks.
#pragma once

#include "../detail/level.hpp"
#include "rows.hpp"

EINKORN_BEGIN_LEVEL

/// A row of f32, bf16 or fp16. The branch per vector is predicted and costs less than the memory it waits
/// for; passes over one common type use plain pointers instead, and mixtures of types this.
struct any_row {
  void* data;
  dtype type;
  any_row operator+(index offset) const {
    return {static_cast<char*>(data) + offset * (type == dtype::f32 ? 4 : 2), type};
  }
};

inline vf load(any_row row) {
  if (row.type == dtype::bf16) return load(static_cast<const bf16*>(row.data));
  if (row.type == dtype::fp16) return load(static_cast<const fp16*>(row.data));
  return load(static_cast<const float*>(row.data));
}
inline vf load_first(any_row row, index count, float fill = 0) {
  if (row.type == dtype::bf16) return load_first(static_cast<const bf16*>(row.data), count, fill);
  if (row.type == dtype::fp16) return load_first(static_cast<const fp16*>(row.data), count, fill);
  return load_first(static_cast<const float*>(row.data), count, fill);
}
inline void store(any_row row, vf value) {
  if (row.type == dtype::bf16) return store(static_cast<bf16*>(row.data), value);
  if (row.type == dtype::fp16) return store(static_cast<fp16*>(row.data), value);
  return store(static_cast<float*>(row.data), value);
}
inline void store_first(any_row row, vf value, index count) {
  if (row.type == dtype::bf16) return store_first(static_cast<bf16*>(row.data), value, count);
  if (row.type == dtype::fp16) return store_first(static_cast<fp16*>(row.data), value, count);
  return store_first(static_cast<float*>(row.data), value, count);
}

inline void put(any_row row, vf value, bool past_caches) {
  if (row.type == dtype::bf16) return put(static_cast<bf16*>(row.data), value, past_caches);
  if (row.type == dtype::fp16) return put(static_cast<fp16*>(row.data), value, past_caches);
  return put(static_cast<float*>(row.data), value, past_caches);
}
inline bool can_stream(any_row row) { return can_stream(row.data); }
// A mixture of types keeps its order.
inline two_vectors load_two(any_row row) { return {load(row), load(row + vf_size)}; }

/// The rows of a plain matrix as T*, or as any_row.
template <class T>
struct typed_rows {
  T* data;
  index stride;
  explicit typed_rows(const any_matrix& m) : data(static_cast<T*>(m.data)), stride(m.stride) {}
  T* at(index row, index col) const { return data + row * stride + col; }
};
struct untyped_rows {
  any_row data;
  index stride;
  explicit untyped_rows(const any_matrix& m) : data{m.data, m.type}, stride(m.stride) {}
  any_row at(index row, index col) const { return data + (row * stride + col); }
};

/// body(rows of a, rows of b, ...) with pointers where all matrices have the same type.
template <class Body, class... Matrices>
inline void with_rows(const Body& body, const any_matrix& first, const Matrices&... others) {
  if ((... && (others.type == first.type))) {
    switch (first.type) {
      case dtype::bf16:
        return body(typed_rows<bf16>(first), typed_rows<bf16>(static_cast<const any_matrix&>(others))...);
      case dtype::fp16:
        return body(typed_rows<fp16>(first), typed_rows<fp16>(static_cast<const any_matrix&>(others))...);
      default:
        return body(typed_rows<float>(first), typed_rows<float>(static_cast<const any_matrix&>(others))...);
    }
  }
  body(untyped_rows(first), untyped_rows(static_cast<const any_matrix&>(others))...);
}

/// An element-wise pass cut into tasks.
struct element_tasks {
  index rows, cols, task_rows, task_cols, column_tasks, count;

  /// `contiguous`: no matrix has gaps between its rows, so that all elements are one row.
  element_tasks(const executor& exec, index all_rows, index all_cols, bool contiguous) {
    rows = contiguous ? 1 : all_rows;
    cols = contiguous ? all_rows * all_cols : all_cols;
    const index piece = (task_elements(exec, all_rows * all_cols) + 63) / 64 * 64;  // whole cache lines
    task_cols = cols < piece ? cols : piece;
    task_rows = task_cols > 0 ? piece / task_cols : 1;
    column_tasks = task_cols > 0 ? (cols + task_cols - 1) / task_cols : 0;
    count = column_tasks * ((rows + task_rows - 1) / task_rows);
  }
  /// body(row, first_col, cols) for the rows of a task
  template <class Body>
  void run(index task, const Body& body) const {
    const index first_row = task / column_tasks * task_rows, first_col = task % column_tasks * task_cols;
    const index end_row = first_row + task_rows < rows ? first_row + task_rows : rows;
    const index width = first_col + task_cols < cols ? task_cols : cols - first_col;
    for (index row = first_row; row < end_row; ++row) body(row, first_col, width);
  }
};

EINKORN_END_LEVEL
