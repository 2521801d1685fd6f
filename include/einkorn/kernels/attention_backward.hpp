/// Attention backward: the gradients of one head from the recomputed probabilities.
///
/// Scores are computed transposed, keys x queries. Then the two products over the queries, dV = P' dO and
/// dK = dS' Q, read the rows of P' and dS' as the A that the micro-kernel takes in place; the third,
/// dQ' = K' dS', takes dS' as B, whose panels are written in the same pass (a k-group of keys is a pair of
/// rows); and what softmax needs of a query is a lane of a vector. Nothing is transposed but dQ' at the end.
#pragma once

#include "attention_scores.hpp"

EINKORN_BEGIN_LEVEL

/// Queries and (about, a multiple of mr) keys of a block: P' and dS' of 128 x 192 bf16 are 100 KiB, beside
/// the packed operands in L2. Part of the result's definition (sums over blocks).
inline constexpr index backward_queries = 192, backward_keys = 128;

template <class Kernel>
struct backward_memory {
  using layout = head_layout<Kernel>;
  using element = typename Kernel::element;
  static constexpr index mr = layout::mr, nr = layout::nr;
  static constexpr index keep_stride = backward_queries / 8 + split_bytes / 8;
  index queries, key_block, sum_stride;
  head_rows<Kernel> k, v, k_transposed;
  head_panels<Kernel> q_transposed, dout_transposed, q, dout;
  head_rows<Kernel> p, ds;  // transposed, of a block
  char* ds_panel;           // of a block and nr queries
  float *shift, *mean;      // of each query
  float *dq, *dk, *dv;      // dq: [panel of nr queries][column of the head][nr]
  float *scores, *dp;       // mr x nr
  std::uint8_t* keep;       // [key][query]

  backward_memory(scratch_parts& parts, index queries_, index keys, index width)
      : queries(rounded_up(queries_, nr)),
        key_block(rounded_up(std::min(keys, backward_keys), mr)),
        sum_stride(layout::panels(width) * nr),
        k(parts, keys, width),
        v(parts, keys, width),
        k_transposed(parts, width, keys),
        q_transposed(parts, width, queries_),
        dout_transposed(parts, width, queries_),
        q(parts, queries_, width),
        dout(parts, queries_, width),
        p(parts, key_block, backward_queries),
        ds(parts, key_block, backward_queries),
        ds_panel(parts.take<char>(layout::panel_bytes(key_block))),
        shift(parts.take<float>(queries)),
        mean(parts.take<float>(queries)),
        dq(parts.take<float>(queries * rounded_up(width, vf_size))),
        dk(parts.take<float>(key_block * sum_stride)),
        dv(parts.take<float>(key_block * sum_stride)),
        scores(parts.take<float>(mr * nr)),
        dp(parts.take<float>(mr * nr)),
        keep(parts.take<std::uint8_t>((key_block + 8) * keep_stride)) {}
  float* dq_panel(index panel, index width) const { return dq + panel * nr * rounded_up(width, vf_size); }
};

/// -log2 of the sums of the exponentials and rowsum(dout * out); queries beyond the last get probability 0.
template <class Kernel>
inline void query_statistics(const backward_memory<Kernel>& m, const any_matrix& out, const any_matrix& dout,
                             const float* lse) {
  const float infinity = __builtin_inff();
  for (index i = 0; i < m.queries; ++i) {
    // A row whose scores were all -infinity: its probabilities and gradients are 0.
    m.shift[i] = i < out.rows && lse[i] != -infinity ? -lse[i] * log2_e : -infinity;
    m.mean[i] = 0;
    if (i >= out.rows) continue;
    const any_row a = untyped_rows(out).at(i, 0), b = untyped_rows(dout).at(i, 0);
    vf sum = broadcast(0.0f);
    for_vectors(out.cols, [&](index c, const auto& lanes) { sum = fma(lanes(a + c), lanes(b + c), sum); });
    m.mean[i] = reduce_add(sum);
  }
}

/// dq = factor * transpose(m.dq).
template <class Kernel>
inline void write_transposed(const backward_memory<Kernel>& m, const any_matrix& dq, float factor) {
  constexpr index nr = Kernel::nr;
  for (index row = 0; row < dq.rows; row += vf_size)
    for (index col = 0; col < dq.cols; col += vf_size) {
      const float* const from = m.dq_panel(row / nr, dq.cols) + col * nr + row % nr;
      vf block[vf_size];
      for (int c = 0; c < vf_size; ++c) block[c] = load(from + c * nr);
      transpose_words(block);
      for (index r = 0; r < std::min<index>(vf_size, dq.rows - row); ++r) {
        const any_row to = untyped_rows(dq).at(row + r, col);
        if (dq.cols - col >= vf_size)
          store(to, block[r] * broadcast(factor));
        else
          store_first(to, block[r] * broadcast(factor), dq.cols - col);
      }
    }
}

template <bool Drop, class Kernel>
inline void backward_task(const detail::attention_backward_args& args, const attention_tasks::place& place) {
  using layout = head_layout<Kernel>;
  using element = typename Kernel::element;
  constexpr index mr = layout::mr, nr = layout::nr;
  const sequence& s = place.s;
  const head_view head(args.qkv, s, place.head, args.options.heads);
  const index keys = head.k.rows, queries = s.rows, width = head.q.cols, hidden = args.out.cols;
  const index offset = place.head * width;
  const any_matrix dq = part(args.dqkv, s.first_row, offset, queries, width);
  const any_matrix dk = part(args.dqkv, s.first_row, hidden + offset, queries, width);
  const any_matrix dv = part(args.dqkv, s.first_row, 2 * hidden + offset, queries, width);
  for (const any_matrix& m : {dk, dv}) zero_rows(part(m, keys, 0, queries - keys, width));
  if (keys == 0) return zero_rows(dq);

  scratch_parts counted;  // for as many keys as there are rows: the next batch of this shape needs no more
  backward_memory<Kernel>(counted, queries, queries, width);
  char* const memory = static_cast<char*>(args.scratch(counted.bytes(), args.failed));
  if (memory == nullptr) return;
  scratch_parts parts(memory);
  const backward_memory<Kernel> m(parts, queries, keys, width);
  [[maybe_unused]] const typename Kernel::session session;
  const any_matrix dout = part(args.dout, s.first_row, offset, queries, width);
  m.k.pack(head.k, 0, keys);
  m.v.pack(head.v, 0, keys);
  m.k_transposed.pack(transposed(head.k), 0, width);
  m.q_transposed.pack(transposed(head.q));
  m.dout_transposed.pack(transposed(dout));
  m.q.pack(head.q);
  m.dout.pack(dout);
  query_statistics(m, part(args.out, s.first_row, offset, queries, width), dout,
                   args.lse + place.head * args.qkv.rows + s.first_row);

  const dropout_spec& spec = args.options.dropout;
  const dropout_stream stream = head_dropout(spec, s, place.head);
  const float keep_scale = detail::dropout_scale(detail::dropout_threshold(spec.p));
  gradient_tile<element> t;
  t.scores = m.scores;
  t.dp = m.dp;
  t.keep_stride = m.keep_stride;
  t.factor = args.options.scale * log2_e;
  t.keep_scale = keep_scale;
  t.stride = m.p.stride;
  for (index key = 0; key < keys; key += m.key_block) {
    const index key_count = std::min(m.key_block, keys - key);
    for (index query = 0; query < queries; query += backward_queries) {
      const index query_count = std::min(backward_queries, queries - query);
      if constexpr (Drop)
        stream.keep_columns(query * dropout_row + key / 8 * 8, dropout_row, query_count, key_count + key % 8,
                            m.keep, m.keep_stride);
      for (index i = 0; i < query_count; i += nr) {
        const index cols = std::min(nr, query_count - i), panel = (query + i) / nr;
        t.cols = rounded_up(cols, vf_size);
        t.shift = m.shift + query + i;
        t.mean = m.mean + query + i;
        for (index j = 0; j < key_count; j += mr) {
          t.rows = std::min(mr, key_count - j);
          layout::multiply(t.rows, cols, width, m.k.at(key + j), m.k.stride, m.q_transposed.at(panel),
                           m.scores, nr, false);
          layout::multiply(t.rows, cols, width, m.v.at(key + j), m.v.stride, m.dout_transposed.at(panel),
                           m.dp, nr, false);
          t.keep = m.keep + (key % 8 + j) * m.keep_stride + i / 8;
          t.p = reinterpret_cast<element*>(m.p.data + j * m.p.stride) + i;
          t.ds = reinterpret_cast<element*>(m.ds.data + j * m.ds.stride) + i;
          t.panel = m.ds_panel + layout::panel_offset(j);
          score_gradients<Kernel, Drop>(t);
        }
        for (index c = 0; c < width; c += mr)
          layout::multiply(std::min(mr, width - c), cols, key_count, m.k_transposed.at(c, key),
                           m.k_transposed.stride, m.ds_panel, m.dq_panel(panel, width) + c * nr, nr, key > 0);
      }
      for (index c = 0; c < width; c += nr)
        for (index j = 0; j < key_count; j += mr) {
          const index rows = std::min(mr, key_count - j), cols = std::min(nr, width - c);
          layout::multiply(rows, cols, query_count, m.p.at(j), m.p.stride, m.dout.at(c / nr, query),
                           m.dv + j * m.sum_stride + c, m.sum_stride, query > 0);
          layout::multiply(rows, cols, query_count, m.ds.at(j), m.ds.stride, m.q.at(c / nr, query),
                           m.dk + j * m.sum_stride + c, m.sum_stride, query > 0);
        }
    }
    for (index j = 0; j < key_count; ++j) {
      write_scaled(dk, key + j, m.dk + j * m.sum_stride, args.options.scale);
      write_scaled(dv, key + j, m.dv + j * m.sum_stride, keep_scale);
    }
  }
  write_transposed(m, dq, args.options.scale);
}

EINKORN_END_LEVEL
