/// Attention by tiles: the level's GEMM for the five products, one row-wise pass between them.
///
/// A task is one head of one sequence (forward: of one block of its queries). Scores of a block of queries
/// against all keys stay in L2; nothing of queries x keys is stored for backward.
/// Products of one (384, 384, 64) head, bf16: 5 x 38 MFLOP against 0.15 M exp and Philox evaluations.
#pragma once

#include "../detail/attention_args.hpp"
#include "../detail/gemm_args.hpp"
#include "gemm.hpp"
#include "math.hpp"
#include "parallel.hpp"
#include "philox.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

/// Queries that are scored at a time: 128 x 384 scores in f32 are 192 KiB, a tenth of an L2 of 2 MiB with
/// what else backward needs. Part of the result's definition (sums over blocks), so never tuned by caches.
inline constexpr index attention_block = 128;

template <class T>
inline any_matrix part(const T* data, index rows, index cols, index stride) {
  return matrix_view<const T>(data, rows, cols, stride);
}

/// C = alpha * A B + beta * C on this thread.
template <class Args>
inline void block_product(const Args& args, const any_matrix& a, const any_matrix& b, const any_matrix& c,
                          float alpha, float beta) {
  detail::gemm_args call;
  call.a = a;
  call.b = b;
  call.c = c;
  call.e.alpha = alpha;
  call.e.beta = beta;
  call.machine = args.machine;
  call.scratch_context = const_cast<detail::attention_memory*>(&args.memory);
  call.scratch = [](void* context, index bytes) {
    const auto& memory = *static_cast<const detail::attention_memory*>(context);
    return memory.scratch(memory.product_slot, bytes);
  };
  gemm(call);
}

/// The columns of one head of one sequence.
template <class T>
struct head_view {
  const T *q, *k, *v;
  index stride, width, rows, keys, first_row;
  int head;

  head_view(const any_matrix& qkv, const sequence& s, int head_, int heads)
      : stride(qkv.stride), rows(s.rows), keys(s.keys), first_row(s.first_row), head(head_) {
    const index hidden = qkv.cols / 3;
    width = hidden / heads;
    q = static_cast<const T*>(qkv.data) + first_row * stride + head * width;
    k = q + hidden;
    v = k + hidden;
  }
};

/// Dropout of one head: `scale` where the bit of a key is set. No bits: everything is kept as it is.
struct head_dropout {
  dropout_stream stream;
  float scale;

  head_dropout(const dropout_spec& spec, const sequence& s, int head)
      : stream(spec.seed, spec.step, spec.site + static_cast<std::uint32_t>(head), s.sample,
               detail::dropout_threshold(spec.p)),
        scale(detail::dropout_scale(detail::dropout_threshold(spec.p))) {}
};

/// One row of scores becomes probabilities times keep, stored as T; returns the log-sum-exp.
template <class T>
inline float probabilities(float* scores, T* out, const std::uint8_t* keep, float keep_scale, index keys) {
  const float lowest = -__builtin_inff();
  vf largest4[4] = {broadcast(lowest), broadcast(lowest), broadcast(lowest), broadcast(lowest)};
  index j = 0;
  for (; j + 4 * vf_size <= keys; j += 4 * vf_size)
    for (int u = 0; u < 4; ++u) largest4[u] = max(largest4[u], load(scores + j + u * vf_size));
  for (; j + vf_size <= keys; j += vf_size) largest4[0] = max(largest4[0], load(scores + j));
  if (j < keys) largest4[0] = max(largest4[0], load_first(scores + j, keys - j, lowest));
  const float largest = reduce_max(max(max(largest4[0], largest4[1]), max(largest4[2], largest4[3])));
  if (largest == lowest) {  // no key, or none with a finite score
    for (j = 0; j < keys; ++j) out[j] = T(0.0f);
    return lowest;
  }
  const vf top = broadcast(largest);
  vf sum2[2] = {broadcast(0.0f), broadcast(0.0f)};
  for (j = 0; j + 2 * vf_size <= keys; j += 2 * vf_size)
    for (int u = 0; u < 2; ++u) {
      const vf e = exp(load(scores + j + u * vf_size) - top);
      sum2[u] += e;
      store(scores + j + u * vf_size, e);
    }
  for (; j < keys; j += vf_size) {
    const index count = keys - j < vf_size ? keys - j : vf_size;
    if (count == vf_size) {
      const vf e = exp(load(scores + j) - top);
      sum2[0] += e;
      store(scores + j, e);
    } else {
      const vf e = exp(load_first(scores + j, count, lowest) - top);
      sum2[0] += e;  // exp(-inf) = 0 in the lanes beyond
      store_first(scores + j, e, count);
    }
  }
  const float sum = reduce_add(sum2[0] + sum2[1]);
  const vf inverse = broadcast(1.0f / sum), scale = broadcast(keep_scale);
  for (j = 0; j + vf_size <= keys; j += vf_size) {
    const vf p = load(scores + j) * inverse;
    store(out + j, keep != nullptr ? p * keep_factors(keep, j, scale) : p);
  }
  if (j < keys) {
    const vf p = load_first(scores + j, keys - j) * inverse;
    store_first(out + j, keep != nullptr ? p * keep_factors(keep, j, scale) : p, keys - j);
  }
  float lanes[vf_size];
  store(lanes, log(broadcast(sum)));
  return largest + lanes[0];
}

/// Takes consecutive parts of one piece of scratch memory, each aligned to 64 bytes.
struct scratch_parts {
  char* next;
  template <class T>
  T* take(index count) {
    T* const result = reinterpret_cast<T*>(next);
    next += (count * static_cast<index>(sizeof(T)) + 63) & ~index{63};
    return result;
  }
  static index bytes(index count, index size) { return (count * size + 63) & ~index{63}; }
};

/// Rows of scratch matrices are padded to whole cache lines, and not to a power of two of them.
inline index padded_keys(index keys) { return ((keys + 31) & ~index{31}) + 32; }

/// The blocks of queries of all sequences, numbered; `find` turns a task number into a sequence and block.
template <bool Blocks>
struct attention_tasks {
  std::span<const sequence> sequences;
  int heads;
  static index blocks(const sequence& s) {
    return Blocks ? (s.rows + attention_block - 1) / attention_block : index{s.rows > 0};
  }
  index count() const {
    index total = 0;
    for (const sequence& s : sequences) total += blocks(s);
    return total * heads;
  }
  struct place {
    const sequence* s;
    int head;
    index block;
  };
  place find(index task) const {
    for (const sequence& s : sequences) {
      const index here = blocks(s) * heads;
      if (task < here) return {&s, static_cast<int>(task / blocks(s)), task % blocks(s)};
      task -= here;
    }
    __builtin_unreachable();
  }
};

template <class T>
inline void attention_forward(const detail::attention_args& args) {
  const attention_tasks<true> tasks{args.sequences, args.options.heads};
  const dropout_spec& spec = args.options.dropout;
  parallel_for(args.exec, tasks.count(), [&](index task) {
    const auto [s, head, block] = tasks.find(task);
    const head_view<T> h(args.qkv, *s, head, args.options.heads);
    const index first = block * attention_block;
    const index count = h.rows - first < attention_block ? h.rows - first : attention_block;
    T* const out = static_cast<T*>(args.out.data) + (h.first_row + first) * args.out.stride + head * h.width;
    float* const lse = args.lse + head * args.qkv.rows + h.first_row + first;
    if (h.keys == 0) {
      for (index i = 0; i < count; ++i) {
        lse[i] = -__builtin_inff();
        for (index c = 0; c < h.width; ++c) out[i * args.out.stride + c] = T(0.0f);
      }
      return;
    }
    const index pitch = padded_keys(h.keys);
    scratch_parts parts{static_cast<char*>(args.memory.scratch(
        args.memory.task_slot, scratch_parts::bytes(count * pitch, sizeof(float)) +
                                   scratch_parts::bytes(count * pitch, sizeof(T)) +
                                   scratch_parts::bytes(dropout_stream::bits_size(pitch), 1)))};
    float* const scores = parts.take<float>(count * pitch);
    T* const p = parts.take<T>(count * pitch);
    std::uint8_t* const bits = parts.take<std::uint8_t>(dropout_stream::bits_size(pitch));
    std::uint8_t* const keep = spec.p > 0 ? bits : nullptr;
    const head_dropout dropped(spec, *s, head);
    block_product(args, part(h.q + first * h.stride, count, h.width, h.stride),
                  transpose(matrix_view<const T>(h.k, h.keys, h.width, h.stride)),
                  part(scores, count, h.keys, pitch), args.options.scale, 0);
    for (index i = 0; i < count; ++i) {
      if (keep != nullptr) dropped.stream.keep_bits((first + i) * 65536, h.keys, keep);
      lse[i] = probabilities(scores + i * pitch, p + i * pitch, keep, dropped.scale, h.keys);
    }
    block_product(args, part(p, count, h.keys, pitch), part(h.v, h.keys, h.width, h.stride),
                  part(out, count, h.width, args.out.stride), 1, 0);
  });
}

/// One row: P from the scores and lse; p_kept = P * keep, ds = P * (dp * keep - inner), both stored as T.
template <class T>
inline void score_gradients(const float* scores, const float* dp, const std::uint8_t* keep, float keep_scale,
                            float lse, float inner, T* p_kept, T* ds, index keys) {
  const vf shift = broadcast(lse), d = broadcast(inner), scale = broadcast(keep_scale);
  for (index j = 0; j < keys; j += vf_size) {
    const index count = keys - j;
    const bool whole = count >= vf_size;
    const vf s = whole ? load(scores + j) : load_first(scores + j, count);
    const vf g = whole ? load(dp + j) : load_first(dp + j, count);
    const vf p = exp(s - shift);
    vf kept = p, gradient = g;
    if (keep != nullptr) {
      const vf k = keep_factors(keep, j, scale);
      kept = p * k;
      gradient = g * k;
    }
    const vf result = p * (gradient - d);
    if (whole) {
      store(p_kept + j, kept);
      store(ds + j, result);
    } else {
      store_first(p_kept + j, kept, count);
      store_first(ds + j, result, count);
    }
  }
}

template <class T>
inline float row_inner(const T* a, const T* b, index count) {
  vf sum = broadcast(0.0f);
  index c = 0;
  for (; c + vf_size <= count; c += vf_size) sum = fma(load(a + c), load(b + c), sum);
  if (c < count) sum = fma(load_first(a + c, count - c), load_first(b + c, count - c), sum);
  return reduce_add(sum);
}

template <class T>
inline void attention_gradients(const detail::attention_backward_args& args) {
  const attention_tasks<false> tasks{args.sequences, args.options.heads};
  const dropout_spec& spec = args.options.dropout;
  parallel_for(args.exec, tasks.count(), [&](index task) {
    const auto place = tasks.find(task);
    const sequence* const s = place.s;
    const int head = place.head;
    const head_view<T> h(args.qkv, *s, head, args.options.heads);
    const index hidden = args.out.cols, offset = head * h.width, dstride = args.dqkv.stride;
    T* const dq = static_cast<T*>(args.dqkv.data) + h.first_row * dstride + offset;
    const auto zero = [&](T* rows, index first) {
      for (index i = first; i < h.rows; ++i)
        for (index c = 0; c < h.width; ++c) rows[i * dstride + c] = T(0.0f);
    };
    if (h.keys == 0) {
      for (int third = 0; third < 3; ++third) zero(dq + third * hidden, 0);
      return;
    }
    const index pitch = padded_keys(h.keys);
    const index block = h.rows < attention_block ? h.rows : attention_block;
    scratch_parts parts{static_cast<char*>(args.memory.scratch(
        args.memory.task_slot, 2 * scratch_parts::bytes(block * pitch, sizeof(float)) +
                                   2 * scratch_parts::bytes(block * pitch, sizeof(T)) +
                                   scratch_parts::bytes(dropout_stream::bits_size(pitch), 1) +
                                   2 * scratch_parts::bytes(h.keys * h.width, sizeof(float))))};
    float* const scores = parts.take<float>(block * pitch);
    float* const dp = parts.take<float>(block * pitch);
    T* const p_kept = parts.take<T>(block * pitch);
    T* const ds = parts.take<T>(block * pitch);
    std::uint8_t* const bits = parts.take<std::uint8_t>(dropout_stream::bits_size(pitch));
    std::uint8_t* const keep = spec.p > 0 ? bits : nullptr;
    const head_dropout dropped(spec, *s, head);
    float* const dk = parts.take<float>(h.keys * h.width);
    float* const dv = parts.take<float>(h.keys * h.width);

    for (index first = 0; first < h.rows; first += attention_block) {
      const index count = h.rows - first < attention_block ? h.rows - first : attention_block;
      const index row = h.first_row + first;
      const any_matrix q = part(h.q + first * h.stride, count, h.width, h.stride);
      const T* const out = static_cast<const T*>(args.out.data) + row * args.out.stride + offset;
      const T* const dout = static_cast<const T*>(args.dout.data) + row * args.dout.stride + offset;
      const any_matrix dout_block = part(dout, count, h.width, args.dout.stride);
      block_product(args, q, transpose(matrix_view<const T>(h.k, h.keys, h.width, h.stride)),
                    part(scores, count, h.keys, pitch), args.options.scale, 0);
      block_product(args, dout_block, transpose(matrix_view<const T>(h.v, h.keys, h.width, h.stride)),
                    part(dp, count, h.keys, pitch), 1, 0);
      for (index i = 0; i < count; ++i) {
        if (keep != nullptr) dropped.stream.keep_bits((first + i) * 65536, h.keys, keep);
        const float lse = args.lse[head * args.qkv.rows + row + i];
        const float inner = row_inner(out + i * args.out.stride, dout + i * args.dout.stride, h.width);
        // A row whose scores were all -infinity: its probabilities and gradients are 0.
        const float shift = lse == -__builtin_inff() ? __builtin_inff() : lse;
        score_gradients(scores + i * pitch, dp + i * pitch, keep, dropped.scale, shift, inner,
                        p_kept + i * pitch, ds + i * pitch, h.keys);
      }
      const float beta = first == 0 ? 0.0f : 1.0f;
      block_product(args, transpose(matrix_view<const T>(p_kept, count, h.keys, pitch)), dout_block,
                    part(dv, h.keys, h.width, h.width), 1, beta);
      block_product(args, transpose(matrix_view<const T>(ds, count, h.keys, pitch)), q,
                    part(dk, h.keys, h.width, h.width), args.options.scale, beta);
      block_product(args, part(ds, count, h.keys, pitch), part(h.k, h.keys, h.width, h.stride),
                    part(dq + first * dstride, count, h.width, dstride), args.options.scale, 0);
    }
    const auto write = [&](const float* sums, T* rows) {
      for (index j = 0; j < h.keys; ++j) {
        index c = 0;
        for (; c + vf_size <= h.width; c += vf_size)
          store(rows + j * dstride + c, load(sums + j * h.width + c));
        if (c < h.width)
          store_first(rows + j * dstride + c, load_first(sums + j * h.width + c, h.width - c), h.width - c);
      }
      zero(rows, h.keys);
    };
    write(dk, dq + hidden);
    write(dv, dq + 2 * hidden);
  });
}

inline void attention(const detail::attention_args& args) {
  switch (args.qkv.type) {
    case dtype::bf16:
      return attention_forward<bf16>(args);
    case dtype::fp16:
      return attention_forward<fp16>(args);
    default:
      return attention_forward<float>(args);
  }
}

inline void attention_backward(const detail::attention_backward_args& args) {
  switch (args.qkv.type) {
    case dtype::bf16:
      return attention_gradients<bf16>(args);
    case dtype::fp16:
      return attention_gradients<fp16>(args);
    default:
      return attention_gradients<float>(args);
  }
}

EINKORN_END_LEVEL
