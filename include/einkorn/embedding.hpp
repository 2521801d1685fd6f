/// The sum of word, position and type embeddings of tokens, and the scatter of its gradient.
#pragma once

#include "detail/embedding_args.hpp"
#include "detail/row_checks.hpp"

EINKORN_BEGIN_NAMESPACE

namespace detail {
inline void require_ids(const char* function, const char* argument, std::span<const std::int32_t> ids,
                        const char* table, index table_rows) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= table_rows) [[unlikely]]
      fail(std::string(function) + ": " + argument + "[" + std::to_string(i) + "] " + std::to_string(ids[i]) +
           " is not in [0, " + table + ".rows " + std::to_string(table_rows) + ")");
}

inline void check_embedding(const char* function, const embedding_tokens& tokens, const char* rows_name,
                            const any_matrix& m, const any_matrix& word, const any_matrix& position,
                            const any_matrix& type) {
  require_f32(function, "word", word);
  require_f32(function, "position", position);
  require_f32(function, "type", type);
  const std::string cols_name = std::string(rows_name) + ".cols";
  require_equal(function, "word.cols", word.cols, cols_name.c_str(), m.cols);
  require_equal(function, "position.cols", position.cols, cols_name.c_str(), m.cols);
  if (type.rows > 0) require_equal(function, "type.cols", type.cols, cols_name.c_str(), m.cols);
  const std::string count_name = std::string(rows_name) + ".rows";
  require_size(function, "word_ids.size", tokens.word_ids, count_name.c_str(), m.rows);
  if (!tokens.type_ids.empty())
    require_size(function, "type_ids.size", tokens.type_ids, count_name.c_str(), m.rows);
  index next = 0;
  for (std::size_t i = 0; i < tokens.sequences.size(); ++i) {
    const sequence& s = tokens.sequences[i];
    if (s.first_row != next || s.rows < 0) [[unlikely]]
      fail(std::string(function) + ": sequences[" + std::to_string(i) + "] has " + std::to_string(s.rows) +
           " rows from " + std::to_string(s.first_row) + ", expected to begin at row " +
           std::to_string(next));
    if (s.rows > position.rows) [[unlikely]]
      fail(std::string(function) + ": sequences[" + std::to_string(i) + "].rows " + std::to_string(s.rows) +
           " > position.rows " + std::to_string(position.rows));
    next += s.rows;
  }
  require_equal(function, "rows of the sequences", next, count_name.c_str(), m.rows);
  require_ids(function, "word_ids", tokens.word_ids, "word", word.rows);
  if (type.rows > 0) require_ids(function, "type_ids", tokens.type_ids, "type", type.rows);
}
}  // namespace detail

EINKORN_END_NAMESPACE

#include "isa.hpp"  // after the arguments: header-only, it brings in the kernels

EINKORN_BEGIN_NAMESPACE

/// out(row, c) = word(word_ids[row], c) + position(row in its sequence, c) + type(type_ids[row], c), summed
/// from left to right in f32.
///
/// out: tokens x cols, f32, bf16 or fp16; it shares nothing with the tables. Same bits at every ISA level
/// for any number of threads. Allocates nothing. Throws einkorn::error, naming token and value for an id
/// beyond its table, before out is touched. Tokens and tables: detail/embedding_args.hpp.
/// Truth: reference/embedding.hpp
inline void embedding(const embedding_tokens& tokens, const embedding_tables& tables, const any_output& out,
                      const executor& exec = default_executor()) {
  const char* const function = "embedding";
  detail::require_real(function, "out", out);
  detail::check_embedding(function, tokens, "out", out, tables.word, tables.position, tables.type);
  detail::kernels().embedding({tokens, tables.word, tables.position, tables.type, out, exec});
}

/// Adds the rows of dy to the rows of the gradients that the tokens name: dword(word_ids[row], :) +=
/// dy(row, :) unless word_ids[row] is padding_id (as PyTorch's padding_idx; -1: none is), and likewise
/// dposition and dtype, without exception.
///
/// dy: tokens x cols, f32, bf16 or fp16. Every element is summed in f32 in the order of the rows, so that
/// the bits do not depend on threads or ISA level: error n * 2^-24 * sum|terms| for n terms. Allocates
/// nothing. Throws einkorn::error as embedding, before anything is written.
/// Tokens and gradients: detail/embedding_args.hpp. Truth: reference/embedding.hpp
inline void embedding_backward(const any_matrix& dy, const embedding_tokens& tokens,
                               const embedding_gradients& gradients, std::int32_t padding_id = -1,
                               const executor& exec = default_executor()) {
  const char* const function = "embedding_backward";
  detail::require_real(function, "dy", dy);
  detail::check_embedding(function, tokens, "dy", dy, gradients.word, gradients.position, gradients.type);
  detail::kernels().embedding_backward(
      {dy, tokens, gradients.word, gradients.position, gradients.type, padding_id, exec});
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
