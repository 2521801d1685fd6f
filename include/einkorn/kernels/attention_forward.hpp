/// Attention forward: mr queries at a time against up to 512 keys at a time, softmax statistics running
/// along.
///
/// The scores of such a block are 14 x 384 f32 at BERT's size, 21 KiB, and their exponentials 11 KiB of bf16
/// rows, which the product with V reads as they are. Not the exponentials are divided by their sum but what
/// that product makes of them: one multiplication for each column of a head instead of for each key.
#pragma once

#include "attention_scores.hpp"

EINKORN_BEGIN_LEVEL

/// Keys whose scores are kept at a time. Part of the result's definition (sums over blocks), so never tuned
/// by caches or threads.
inline constexpr index forward_keys = 512;

/// Memory of a task.
template <class Kernel>
struct forward_memory {
  using layout = head_layout<Kernel>;
  head_rows<Kernel> q;
  head_panels<Kernel> k, v;  // transpose(K), V
  head_rows<Kernel> p;       // exponentials
  index score_stride, sum_stride;
  float *scores, *sums;
  std::uint8_t* keep;

  forward_memory(scratch_parts& parts, index queries, index keys, index width)
      : q(parts, queries, width),
        k(parts, width, keys),
        v(parts, keys, width),
        p(parts, layout::mr, std::min(keys, forward_keys)),
        score_stride(odd_lines(rounded_up(std::min(keys, forward_keys), layout::nr) * 4) / 4),
        sum_stride(layout::panels(width) * layout::nr),
        scores(parts.take<float>(layout::mr * score_stride)),
        sums(parts.take<float>(layout::mr * sum_stride)),
        keep(parts.take<std::uint8_t>(dropout_stream::bits_size(forward_keys))) {}
};

/// The softmax of `rows` rows of m.scores goes on with `keys` more keys: their exponentials to m.p, the
/// statistics to `state`, and older sums are rescaled. keep_row(r) gives the bits of a row.
template <bool Drop, class Kernel, class KeepRow>
inline void continue_softmax(const forward_memory<Kernel>& m, softmax_state<Kernel::mr>& state, index rows,
                             index keys, float factor, bool first, const KeepRow& keep_row) {
  const index count = rounded_up(keys, vf_size);
  float top[softmax_state<Kernel::mr>::lanes] = {};
  for (index r = 0; r < rows; ++r) {
    float* const scores = m.scores + r * m.score_stride;
    if (factor < 0)  // then the largest product comes from the smallest score
      for (index j = 0; j < keys; j += vf_size) store(scores + j, broadcast(0.0f) - load(scores + j));
    for (index j = keys; j < count; ++j) scores[j] = -__builtin_inff();
    top[r] = std::max(state.top[r], largest_of(scores, count) * __builtin_fabsf(factor));
  }
  for (index r = 0; r < rows; r += vf_size) {
    // Where no score was finite yet, there is nothing to rescale, and -infinity - -infinity would be NaN.
    const vf largest = load(top + r);
    const vf shift = math::select_less(broadcast(-__builtin_inff()), largest, largest, broadcast(0.0f));
    store(state.rescale + r, power_of_two(load(state.top + r) - shift));
    store(state.top + r, largest);
    store(top + r, shift);
  }
  for (index r = 0; r < rows; ++r) {
    const std::uint8_t* const keep = Drop ? keep_row(r) : nullptr;
    auto* const p = reinterpret_cast<typename Kernel::element*>(m.p.data + r * m.p.stride);
    const float sum =
        exponentials<Drop>(m.scores + r * m.score_stride, p, keep, count, __builtin_fabsf(factor), top[r]);
    state.sum[r] = state.sum[r] * state.rescale[r] + sum;
    if (first) continue;
    float* const sums = m.sums + r * m.sum_stride;
    for (index c = 0; c < m.sum_stride; c += vf_size)
      store(sums + c, load(sums + c) * broadcast(state.rescale[r]));
  }
}

template <bool Drop, class Kernel>
inline void forward_task(const detail::attention_args& args, const attention_tasks::place& place) {
  using layout = head_layout<Kernel>;
  constexpr index mr = layout::mr, nr = layout::nr;
  const head_view head(args.qkv, place.s, place.head, args.options.heads);
  const index keys = head.k.rows, width = head.q.cols;
  const any_matrix out =
      part(args.out, place.s.first_row + place.first, place.head * width, place.rows, width);
  float* const lse = args.lse + place.head * args.qkv.rows + place.s.first_row + place.first;
  if (keys == 0) {
    for (index i = 0; i < place.rows; ++i) lse[i] = -__builtin_inff();
    return zero_rows(out);
  }
  scratch_parts counted;  // for as many keys as there are rows: the next batch of this shape needs no more
  forward_memory<Kernel>(counted, place.rows, place.s.rows, width);
  char* const memory = static_cast<char*>(args.scratch(counted.bytes(), args.failed));
  if (memory == nullptr) return;
  scratch_parts parts(memory);
  const forward_memory<Kernel> m(parts, place.rows, keys, width);
  [[maybe_unused]] const typename Kernel::session session;
  m.q.pack(head.q, place.first, place.rows);
  m.k.pack(transposed(head.k));
  m.v.pack(head.v);

  const dropout_spec& spec = args.options.dropout;
  const dropout_stream stream = head_dropout(spec, place.s, place.head);
  const float keep_scale = detail::dropout_scale(detail::dropout_threshold(spec.p));
  for (index row = 0; row < place.rows; row += mr) {
    const index rows = std::min(mr, place.rows - row);
    softmax_state<Kernel::mr> state;
    for (index key = 0; key < keys; key += forward_keys) {
      const index count = std::min(forward_keys, keys - key);
      for (index j = 0; j < count; j += nr)
        layout::multiply(rows, std::min(nr, count - j), width, m.q.at(row), m.q.stride,
                         m.k.at((key + j) / nr), m.scores + j, m.score_stride, false);
      continue_softmax<Drop>(m, state, rows, count, args.options.scale * log2_e, key == 0, [&](index r) {
        stream.keep_bits((place.first + row + r) * dropout_row + key, count, m.keep);
        return m.keep;
      });
      for (index c = 0; c < width; c += nr)
        layout::multiply(rows, std::min(nr, width - c), count, m.p.data, m.p.stride, m.v.at(c / nr, key),
                         m.sums + c, m.sum_stride, key > 0);
    }
    finish_softmax(state, keep_scale, lse + row, rows);
    for (index r = 0; r < rows; ++r) write_scaled(out, row + r, m.sums + r * m.sum_stride, state.rescale[r]);
  }
}

EINKORN_END_LEVEL
