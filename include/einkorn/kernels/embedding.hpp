/// Gather of three tables; scatter by columns, so that each element has one writer and a fixed order.
#pragma once

#include "../detail/embedding_args.hpp"
#include "../detail/level.hpp"
#include "elements.hpp"

EINKORN_BEGIN_LEVEL

/// Walks over the tokens in order: the rows of the tables that the current one sums.
class token_rows {
 public:
  token_rows(const detail::embedding_args& args, index first_row)
      : args_(args), sequence_(args.tokens.sequences.data()) {
    const sequence* after = sequence_ + args.tokens.sequences.size();
    while (after - sequence_ > 1) {  // the last sequence that begins at or before first_row
      const sequence* middle = sequence_ + (after - sequence_) / 2;
      (middle->first_row <= first_row ? sequence_ : after) = middle;
    }
  }
  /// Rows must not go backwards.
  void go_to(index row) {
    while (row >= sequence_->first_row + sequence_->rows) ++sequence_;
    word_ = row_of<const float>(args_.word, args_.tokens.word_ids[static_cast<std::size_t>(row)]);
    position_ = row_of<const float>(args_.position, row - sequence_->first_row);
    const bool typed = args_.tokens.type_ids.size() > 0;
    if (args_.type.rows > 0)
      type_ =
          row_of<const float>(args_.type, typed ? args_.tokens.type_ids[static_cast<std::size_t>(row)] : 0);
  }
  template <class Lanes>
  vf sum(index i, const Lanes& lanes) const {
    const vf sum = lanes(word_ + i) + lanes(position_ + i);
    return type_ != nullptr ? sum + lanes(type_ + i) : sum;
  }

 private:
  const detail::embedding_args& args_;
  const sequence* sequence_;
  const float *word_ = nullptr, *position_ = nullptr, *type_ = nullptr;
};

inline void embedding(const detail::embedding_args& args) {
  const index cols = args.out.cols;
  const auto block = with_real(args.out.type, [](auto out) {
    using T = decltype(out);
    return +[](const detail::embedding_args& a, index first, index last) {
      token_rows tokens(a, first);
      for (index row = first; row < last; ++row) {
        tokens.go_to(row);
        T* y = row_of<T>(a.out, row);
        for_vectors(a.out.cols, [&](index i, const auto& lanes) { lanes(y + i, tokens.sum(i, lanes)); });
      }
    };
  });
  parallel_rows(args.exec, args.out.rows, cols, [&](index first, index last) { block(args, first, last); });
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
