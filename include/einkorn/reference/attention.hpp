/// Attention as plain loops in double: the truth that the kernels are compared with.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "../detail/attention_args.hpp"
#include "dropout.hpp"

EINKORN_BEGIN_NAMESPACE
namespace reference {

/// Probabilities of one head of one sequence, queries x keys, before dropout; and the log-sum-exp.
template <class T>
std::vector<double> attention_probabilities(matrix_view<const T> qkv, const sequence& s, int head, int heads,
                                            double scale, std::vector<double>& lse) {
  const index hidden = qkv.cols / 3, width = hidden / heads, keys = s.key_count();
  std::vector<double> p(static_cast<std::size_t>(s.rows * keys));
  lse.assign(static_cast<std::size_t>(s.rows), -std::numeric_limits<double>::infinity());
  for (index i = 0; i < s.rows; ++i) {
    double* row = p.data() + i * keys;
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (index j = 0; j < keys; ++j) {
      row[j] = 0;
      for (index c = 0; c < width; ++c)
        row[j] += static_cast<double>(qkv(s.first_row + i, head * width + c)) *
                  static_cast<double>(qkv(s.first_row + j, hidden + head * width + c));
      row[j] *= scale;
      largest = std::fmax(largest, row[j]);
    }
    for (index j = 0; j < keys; ++j) sum += std::exp(row[j] - largest);
    if (keys > 0) lse[static_cast<std::size_t>(i)] = largest + std::log(sum);
    for (index j = 0; j < keys; ++j) row[j] = std::exp(row[j] - largest) / sum;
  }
  return p;
}

/// 0 where (query, key) of this head is dropped, else 1 / (kept share).
inline double attention_keep(dropout_spec spec, const sequence& s, int head, index query, index key) {
  spec.site += static_cast<std::uint32_t>(head);
  return dropout_factor(spec, s.sample, query * 65536 + key);
}

template <class T>
void attention(matrix_view<const T> qkv, std::span<const sequence> sequences, matrix_view<double> out,
               std::span<double> lse, const attention_options& options) {
  const index hidden = qkv.cols / 3, width = hidden / options.heads;
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(width));
  for (const sequence& s : sequences)
    for (int head = 0; head < options.heads; ++head) {
      std::vector<double> head_lse;
      const std::vector<double> p = attention_probabilities(qkv, s, head, options.heads, scale, head_lse);
      for (index i = 0; i < s.rows; ++i) {
        lse[static_cast<std::size_t>(head * qkv.rows + s.first_row + i)] =
            head_lse[static_cast<std::size_t>(i)];
        for (index c = 0; c < width; ++c) {
          double sum = 0;
          for (index j = 0; j < s.key_count(); ++j)
            sum += p[static_cast<std::size_t>(i * s.key_count() + j)] *
                   attention_keep(options.dropout, s, head, i, j) *
                   static_cast<double>(qkv(s.first_row + j, 2 * hidden + head * width + c));
          out(s.first_row + i, head * width + c) = sum;
        }
      }
    }
}

/// dqkv from dout; out is recomputed, so that the reference depends on nothing that it checks.
template <class T>
void attention_backward(matrix_view<const T> qkv, matrix_view<const T> dout,
                        std::span<const sequence> sequences, matrix_view<double> dqkv,
                        const attention_options& options) {
  const index hidden = qkv.cols / 3, width = hidden / options.heads;
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(width));
  for (const sequence& s : sequences)
    for (int head = 0; head < options.heads; ++head) {
      const index q = head * width, k = hidden + q, v = 2 * hidden + q, first = s.first_row;
      std::vector<double> lse;
      const std::vector<double> p = attention_probabilities(qkv, s, head, options.heads, scale, lse);
      for (index i = 0; i < s.rows; ++i)
        for (index c = 0; c < width; ++c)
          dqkv(first + i, q + c) = dqkv(first + i, k + c) = dqkv(first + i, v + c) = 0;
      for (index i = 0; i < s.rows; ++i) {
        std::vector<double> dp(static_cast<std::size_t>(s.key_count()));
        double inner = 0;  // sum over keys of P * dP
        for (index j = 0; j < s.key_count(); ++j) {
          const double keep = attention_keep(options.dropout, s, head, i, j);
          const double weight = p[static_cast<std::size_t>(i * s.key_count() + j)];
          double& d = dp[static_cast<std::size_t>(j)];
          for (index c = 0; c < width; ++c) {
            const double g = static_cast<double>(dout(first + i, head * width + c));
            d += g * static_cast<double>(qkv(first + j, v + c)) * keep;
            dqkv(first + j, v + c) += weight * keep * g;
          }
          inner += weight * d;
        }
        for (index j = 0; j < s.key_count(); ++j) {
          const double ds = p[static_cast<std::size_t>(i * s.key_count() + j)] *
                            (dp[static_cast<std::size_t>(j)] - inner) * scale;
          for (index c = 0; c < width; ++c) {
            dqkv(first + i, q + c) += ds * static_cast<double>(qkv(first + j, k + c));
            dqkv(first + j, k + c) += ds * static_cast<double>(qkv(first + i, q + c));
          }
        }
      }
    }
}

}  // namespace reference
EINKORN_END_NAMESPACE
