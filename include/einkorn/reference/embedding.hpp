/// What embedding.hpp computes, as plain loops in double: the truth of its tests.
#pragma once

#include <cmath>
#include <vector>

#include "../embedding.hpp"
#include "gemm.hpp"  // element()

EINKORN_BEGIN_NAMESPACE
namespace reference {

/// rows * cols results, before they are rounded to the type of out.
inline std::vector<double> embedding(const embedding_tokens& tokens, const embedding_tables& tables) {
  std::vector<double> out;
  for (const sequence& s : tokens.sequences) {
    for (index r = 0; r < s.rows; ++r) {
      const auto row = static_cast<std::size_t>(s.first_row + r);
      const index type = tokens.type_ids.empty() ? 0 : tokens.type_ids[row];
      for (index c = 0; c < tables.word.cols; ++c) {
        double sum = static_cast<double>(tables.word(tokens.word_ids[row], c)) + tables.position(r, c);
        if (tables.type.rows > 0) sum += tables.type(type, c);
        out.push_back(sum);
      }
    }
  }
  return out;
}

/// What is added to each table, and the sum of the magnitudes of it, which bounds the error.
struct embedding_gradient {
  std::vector<double> sum, magnitude;
  std::vector<index> terms;  // a row of the table
  explicit embedding_gradient(const matrix_view<float>& table)
      : sum(static_cast<std::size_t>(table.rows * table.cols)),
        magnitude(sum.size()),
        terms(static_cast<std::size_t>(table.rows)) {}
};
struct embedding_backward_result {
  embedding_gradient word, position, type;
};

inline embedding_backward_result embedding_backward(const any_matrix& dy, const embedding_tokens& tokens,
                                                    const embedding_gradients& gradients,
                                                    std::int32_t padding_id) {
  embedding_backward_result result{embedding_gradient(gradients.word), embedding_gradient(gradients.position),
                                   embedding_gradient(gradients.type)};
  const auto add = [&](embedding_gradient& table, index table_row, index row) {
    ++table.terms[static_cast<std::size_t>(table_row)];
    for (index c = 0; c < dy.cols; ++c) {
      const auto i = static_cast<std::size_t>(table_row * dy.cols + c);
      table.sum[i] += element(dy, row, c);
      table.magnitude[i] += std::abs(element(dy, row, c));
    }
  };
  for (const sequence& s : tokens.sequences) {
    for (index r = 0; r < s.rows; ++r) {
      const index row = s.first_row + r;
      const auto token = static_cast<std::size_t>(row);
      if (tokens.word_ids[token] != padding_id) add(result.word, tokens.word_ids[token], row);
      add(result.position, r, row);
      if (gradients.type.rows > 0)
        add(result.type, tokens.type_ids.empty() ? 0 : tokens.type_ids[token], row);
    }
  }
  return result;
}

}  // namespace reference
EINKORN_END_NAMESPACE
