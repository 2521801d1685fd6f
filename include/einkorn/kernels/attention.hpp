/// Attention on packed or padded sequences, forward and backward.
///
/// Products of one (384, 384, 64) head: 7 x 19 MFLOP, against 0.15 M exponentials and Philox evaluations in
/// each direction. On Zen 4 in bf16 (16 x 16 tiles of scores): 224 cycles of vdpbf16ps, 12 and 22 of the row
/// passes, 8 + 8 of dropout.
#pragma once

#include "attention_backward.hpp"
#include "attention_forward.hpp"

EINKORN_BEGIN_LEVEL

inline void attention(const detail::attention_args& args) {
  attention_tasks tasks{args.sequences, args.options.heads, 384};
  // A task packs the keys of its head again, so blocks are short only where there are few heads. Every row is
  // computed alike in any block.
  if (tasks.count() < 4 * args.exec.threads) tasks.most_rows = 96;
  with_attention_kernel(args, [&](auto kernel) {
    using kernel_type = decltype(kernel);
    const auto task =
        args.options.dropout.p > 0 ? &forward_task<true, kernel_type> : &forward_task<false, kernel_type>;
    parallel_for(args.exec, tasks.count(), [&](index i) { task(args, tasks.find(i)); });
  });
}

inline void attention_backward(const detail::attention_backward_args& args) {
  const attention_tasks tasks{args.sequences, args.options.heads, index{1} << 40};
  with_attention_kernel(args, [&](auto kernel) {
    using kernel_type = decltype(kernel);
    const auto task =
        args.options.dropout.p > 0 ? &backward_task<true, kernel_type> : &backward_task<false, kernel_type>;
    parallel_for(args.exec, tasks.count(), [&](index i) { task(args, tasks.find(i)); });
  });
}

EINKORN_END_LEVEL
