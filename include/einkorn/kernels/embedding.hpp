/// Gather of three tables; scatter by columns, so that each element has one writer and a fixed order.
#pragma once

#include "../detail/level.hpp"
#include "../embedding.hpp"
#include "elements.hpp"
#include "parallel.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

inline void embedding(const detail::embedding_args& args) {
  constexpr index task_rows = 16;
  const index rows = args.out.rows, cols = args.out.cols;
  const typed_rows<const float> word(args.word), position(args.position), type(args.type);
  const std::int32_t* const word_ids = args.tokens.word_ids.data();
  const std::int32_t* const type_ids =
      args.tokens.type_ids.size() > 0 ? args.tokens.type_ids.data() : nullptr;
  const sequence* const sequences = args.tokens.sequences.data();
  const index sequence_count = static_cast<index>(args.tokens.sequences.size());
  with_rows(
      [&](auto out) {
        parallel_for(args.exec, (rows + task_rows - 1) / task_rows, [&](index task) {
          const index first_row = task * task_rows;
          const index end_row = first_row + task_rows < rows ? first_row + task_rows : rows;
          index s = 0, after = sequence_count;  // the last sequence that begins at or before first_row
          while (after - s > 1) {
            const index middle = (s + after) / 2;
            (sequences[middle].first_row <= first_row ? s : after) = middle;
          }
          for (index row = first_row; row < end_row; ++row) {
            while (row >= sequences[s].first_row + sequences[s].rows) ++s;
            const float* const w = word.at(word_ids[row], 0);
            const float* const p = position.at(row - sequences[s].first_row, 0);
            const float* const t =
                args.type.rows > 0 ? type.at(type_ids != nullptr ? type_ids[row] : 0, 0) : nullptr;
            const auto y = out.at(row, 0);
            index i = 0;
            for (; i + vf_size <= cols; i += vf_size) {
              const vf sum = load(w + i) + load(p + i);
              store(y + i, t != nullptr ? sum + load(t + i) : sum);
            }
            if (i < cols) {
              const vf sum = load_first(w + i, cols - i) + load_first(p + i, cols - i);
              store_first(y + i, t != nullptr ? sum + load_first(t + i, cols - i) : sum, cols - i);
            }
          }
        });
      },
      args.out);
}

inline void add_to(float* p, vf value) { store(p, load(p) + value); }
inline void add_to_first(float* p, vf value, index count) {
  store_first(p, load_first(p, count) + value, count);
}

inline void embedding_backward(const detail::embedding_backward_args& args) {
  constexpr index task_cols = 32;  // two cache lines: tables of 768 columns give 24 tasks
  const index cols = args.dy.cols;
  const typed_rows<float> word(args.word), position(args.position), type(args.type);
  const std::int32_t* const word_ids = args.tokens.word_ids.data();
  const std::int32_t* const type_ids =
      args.tokens.type_ids.size() > 0 ? args.tokens.type_ids.data() : nullptr;
  const sequence* const sequences = args.tokens.sequences.data();
  const index sequence_count = static_cast<index>(args.tokens.sequences.size());
  with_rows(
      [&](auto dy) {
        parallel_for(args.exec, (cols + task_cols - 1) / task_cols, [&](index task) {
          const index first_col = task * task_cols;
          const index width = first_col + task_cols < cols ? task_cols : cols - first_col;
          for (index s = 0; s < sequence_count; ++s) {
            for (index r = 0; r < sequences[s].rows; ++r) {
              const index row = sequences[s].first_row + r;
              const auto d = dy.at(row, first_col);
              const std::int32_t id = word_ids[row];
              float* const w = id != args.padding_id ? word.at(id, first_col) : nullptr;
              float* const p = position.at(r, first_col);
              float* const t =
                  args.type.rows > 0 ? type.at(type_ids != nullptr ? type_ids[row] : 0, first_col) : nullptr;
              index i = 0;
              for (; i + vf_size <= width; i += vf_size) {
                const vf value = load(d + i);
                if (w != nullptr) add_to(w + i, value);
                add_to(p + i, value);
                if (t != nullptr) add_to(t + i, value);
              }
              if (i < width) {
                const index rest = width - i;
                const vf value = load_first(d + i, rest);
                if (w != nullptr) add_to_first(w + i, value, rest);
                add_to_first(p + i, value, rest);
                if (t != nullptr) add_to_first(t + i, value, rest);
              }
            }
          }
        });
      },
      args.dy);
}

EINKORN_END_LEVEL
