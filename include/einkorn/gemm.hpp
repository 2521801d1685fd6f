/// C = epilogue(A * B): A rows x depth, B depth x cols, C rows x cols.
///
///   einkorn::gemm(a, b, c);                                  // C = A B
///   einkorn::gemm(x, transpose(w), y, {.bias = bias, .act = activation::gelu});
///   einkorn::packed_matrix w2 = einkorn::pack(transpose(w)); // reorder the weights once
///   einkorn::gemm(x, w2, y);
///   einkorn::gemm_plan plan(a, b, c);                        // many products of one small shape
///   plan(a_data, b_data, c_data);
///
/// Types: A and B each f32, bf16 or fp16, C f32, bf16 or fp16, accumulated in f32; or A u8 or s8, B s8,
/// accumulated in i32, exact and wrapping modulo 2^32, and C i32 (epilogue: nothing but beta = 0 or 1) or
/// again f32, bf16 or fp16 (any epilogue, after its dequantization).
/// Views are row-major with strides in elements; A and B may be transposed, C may not. C overlaps neither A
/// nor B. Zero sizes are allowed: depth == 0 stores epilogue(0).
/// Error per element before the epilogue: (depth + 2) * 2^-23 * sum|a*b| + eps(C) * |c|; bf16 operands that
/// are denormal may count as 0. NaN and infinity propagate.
/// Same level, same bits, for any number of threads; packed and plain B give the same bits, but for up to 16
/// rows of A and a transposed B as it lies, whose sums are dot products (kernels/gemm_few_rows.hpp), and for
/// up to 3 rows of bf16 at level amx, where a plain B does not go through tiles. Allocates nothing once the
/// workspace fits. Throws einkorn::error on a mismatch, before C is touched. Truth: reference/gemm.hpp.
#pragma once

#include "allocation.hpp"
#include "detail/gemm_args.hpp"
#include "detail/gemm_checks.hpp"
#include "detail/gemm_machine.hpp"
#include "isa.hpp"

EINKORN_BEGIN_NAMESPACE

/// B in the order in which the micro-kernel of one ISA level reads it, with that level and the types it was
/// made for. Using it under another level, or with another type of A, throws. Movable, not copyable; may be
/// shared by threads that only read.
class packed_matrix {
 public:
  packed_matrix() noexcept = default;
  index rows() const noexcept { return rows_; }  // depth of the product
  index cols() const noexcept { return cols_; }
  isa level() const noexcept { return level_; }
  dtype type() const noexcept { return type_; }       // of the matrix that was packed
  dtype a_type() const noexcept { return a_type_; }   // of the A it is for; u8 stands for s8 too
  bool widened() const noexcept { return widened_; }  // bf16 held as f32, see detail::widens_bf16
  const void* data() const noexcept { return memory_.data(); }
  index bytes() const noexcept { return memory_.bytes(); }

 private:
  friend void pack_into(packed_matrix& out, const any_matrix& b, dtype a_type, const executor& exec);
  friend void pack_pair_into(packed_matrix& forward, packed_matrix& backward, const any_matrix& weight,
                             dtype a_type, const executor& exec);
  /// Room for so many bytes; what is there is kept where it fits.
  void* take(index bytes) {
    rows_ = cols_ = 0;  // until it is described again: an exception may come between
    if (bytes < 64) bytes = 64;
    if (memory_.bytes() < bytes) {
      memory_ = buffer();
      memory_ = buffer(bytes);
    }
    return memory_.data();
  }
  void describe(const any_matrix& b, isa level, dtype a_type, bool widened) {
    rows_ = b.rows;
    cols_ = b.cols;
    level_ = level;
    type_ = b.type;
    a_type_ = a_type;
    widened_ = widened;
  }
  buffer memory_;
  index rows_ = 0, cols_ = 0;
  isa level_ = isa::baseline;
  dtype type_ = dtype::f32, a_type_ = dtype::f32;
  bool widened_ = false;
};

/// How the matrices of a batch follow each other, in elements. A stride of 0 uses one matrix for all (not C).
struct batch_layout {
  index count = 1;
  index stride_a = 0, stride_b = 0, stride_c = 0, stride_preactivation = 0, stride_residual = 0;
};

template <class A, class B, class C>
concept gemm_types =
    (real<A> && real<B> && real<C> && !std::is_const_v<C>) ||
    ((std::is_same_v<std::remove_cv_t<A>, std::uint8_t> ||
      std::is_same_v<std::remove_cv_t<A>, std::int8_t>)&&std::is_same_v<std::remove_cv_t<B>, std::int8_t> &&
     (std::is_same_v<C, std::int32_t> || (real<C> && !std::is_const_v<C>)));

/// The same for a packed B, whose type is known only at run time.
template <class A>
using packed_element = std::conditional_t<real<A>, float, std::int8_t>;
template <class A, class C>
concept packed_gemm_types = gemm_types<A, packed_element<A>, C>;

namespace detail {

inline dtype packed_a_type(dtype a) noexcept { return a == dtype::s8 ? dtype::u8 : a; }

inline void run_gemm(gemm_args& args, workspace* scratch) {
  args.machine = this_machine();
  workspace_lease lease(scratch);
  args.scratch_context = &lease;
  args.scratch = [](void* context, index bytes) {
    return static_cast<workspace_lease*>(context)->reserve(bytes > 0 ? bytes : 64);
  };
  kernels().gemm(args);
}

inline gemm_args batched_args(const any_matrix& a, const any_matrix& b, const any_matrix& c,
                              const epilogue& e, const batch_layout& batch, const executor& exec) {
  gemm_args args(a, b, c, e, exec);
  args.batch = batch.count;
  args.batch_a = batch.stride_a;
  args.batch_b = batch.stride_b;
  args.batch_c = batch.stride_c;
  args.batch_preactivation = batch.stride_preactivation;
  args.batch_residual = batch.stride_residual;
  return args;
}

inline void gemm_any(const any_matrix& a, const any_matrix& b, const any_matrix& c, const epilogue& e,
                     const batch_layout& batch, const executor& exec, workspace* scratch) {
  gemm_args args = batched_args(a, b, c, e, batch, exec);
  check_gemm(args);
  run_gemm(args, scratch);
}

/// The call with packed B; throws where b was packed for something else.
inline gemm_args packed_args(const any_matrix& a, const packed_matrix& b, const any_matrix& c,
                             const epilogue& e, const executor& exec) {
  require(b.data() != nullptr, "gemm", "b is a packed_matrix that holds nothing");
  any_matrix shape;
  shape.rows = b.rows();
  shape.cols = shape.stride = b.cols();
  shape.type = b.type();
  const isa level = active_isa();
  if (b.level() != level) [[unlikely]]
    fail(std::string("gemm: b was packed for ISA level '") + name(b.level()) + "', but '" + name(level) +
         "' runs");
  if (b.a_type() != packed_a_type(a.type)) [[unlikely]]
    fail(std::string("gemm: b was packed for a of type ") + name(b.a_type()) + ", but a is " + name(a.type));
  if (b.widened() != widens_bf16()) [[unlikely]]
    fail("gemm: b was packed for the other way of multiplying bf16");
  gemm_args args(a, shape, c, e, exec);
  args.packed = b.data();
  return args;
}

inline void gemm_packed(const any_matrix& a, const packed_matrix& b, const any_matrix& c, const epilogue& e,
                        const executor& exec, workspace* scratch) {
  gemm_args args = packed_args(a, b, c, e, exec);
  check_gemm(args);
  run_gemm(args, scratch);
}

/// The checked call with everything decided; run is null where C has no elements.
inline gemm_prepared prepare(gemm_args& args) {
  check_gemm(args);
  args.machine = this_machine();
  gemm_prepared prepared;
  if (args.batch > 0 && args.c.rows > 0 && args.c.cols > 0) kernels().gemm_prepare({&args, &prepared});
  return prepared;
}

/// What the stack holds is no workspace's.
inline index workspace_bytes(gemm_args args) {
  const index bytes = prepare(args).scratch_bytes;
  return bytes > gemm_small_scratch ? bytes : 0;
}

}  // namespace detail

/// The formula at the top. The executor runs the tasks; the workspace, if given, serves as scratch memory.
template <class A, class B, class C>
requires gemm_types<A, B, C>
void gemm(const matrix_view<A>& a, const matrix_view<B>& b, const matrix_view<C>& c, const epilogue& e = {},
          const executor& exec = default_executor(), workspace* scratch = nullptr) {
  detail::gemm_any(a, b, c, e, {}, exec, scratch);
}

/// count products; matrix i of A starts at a.data + i * stride_a. The same bias serves them all.
template <class A, class B, class C>
requires gemm_types<A, B, C>
void gemm_batched(const matrix_view<A>& a, const matrix_view<B>& b, const matrix_view<C>& c,
                  const batch_layout& batch, const epilogue& e = {},
                  const executor& exec = default_executor(), workspace* scratch = nullptr) {
  detail::gemm_any(a, b, c, e, batch, exec, scratch);
}

/// With B packed by pack(): for weights that are used many times.
template <class A, class C>
requires packed_gemm_types<A, C>
void gemm(const matrix_view<A>& a, const packed_matrix& b, const matrix_view<C>& c, const epilogue& e = {},
          const executor& exec = default_executor(), workspace* scratch = nullptr) {
  detail::gemm_packed(a, b, c, e, exec, scratch);
}

/// Packs b (depth x cols, possibly transposed) into `out`, whose memory is kept where it fits.
inline void pack_into(packed_matrix& out, const any_matrix& b, dtype a_type, const executor& exec) {
  detail::require_matrix("pack", "b", b);
  detail::check_operand_types("pack", a_type, b.type);
  index bytes = 0;
  detail::gemm_pack_args args{.b = b,
                              .a_type = detail::packed_a_type(a_type),
                              .bytes = &bytes,
                              .exec = exec,
                              .machine = detail::this_machine()};
  const detail::kernel_table& table = detail::kernels();
  table.gemm_pack(args);
  args.out = out.take(bytes);
  table.gemm_pack(args);
  out.describe(b, table.level, args.a_type, args.machine.widen_bf16);
}

/// The weight of a linear layer (out x in, f32, bf16 or fp16) packed for both its products in one pass over
/// it: `forward` as transpose(weight), for x * transpose(weight); `backward` as weight, for dy * weight.
inline void pack_pair_into(packed_matrix& forward, packed_matrix& backward, const any_matrix& weight,
                           dtype a_type, const executor& exec = default_executor()) {
  detail::require_matrix("pack_pair", "weight", weight);
  detail::require(&forward != &backward, "pack_pair", "forward and backward are one packed_matrix");
  detail::require(detail::is_real(weight.type) && detail::is_real(a_type), "pack_pair",
                  "weight and a must be f32, bf16 or fp16");
  index forward_bytes = 0, backward_bytes = 0;
  detail::gemm_pack_pair_args args{.weight = weight,
                                   .a_type = a_type,
                                   .forward_bytes = &forward_bytes,
                                   .backward_bytes = &backward_bytes,
                                   .exec = exec,
                                   .machine = detail::this_machine()};
  const detail::kernel_table& table = detail::kernels();
  table.gemm_pack_pair(args);
  args.forward = forward.take(forward_bytes);
  args.backward = backward.take(backward_bytes);
  table.gemm_pack_pair(args);
  any_matrix transposed = weight;
  std::swap(transposed.rows, transposed.cols);
  forward.describe(transposed, table.level, a_type, args.machine.widen_bf16);
  backward.describe(weight, table.level, a_type, args.machine.widen_bf16);
}

/// B packed for the active level, for products with an A of the same type (s8: of u8 and of s8).
template <class B>
packed_matrix pack(const matrix_view<B>& b, const executor& exec = default_executor()) {
  packed_matrix out;
  pack_into(out, b, dtype_of<B>, exec);
  return out;
}

/// The same for an A of another type.
template <class B>
packed_matrix pack(const matrix_view<B>& b, dtype a_type, const executor& exec = default_executor()) {
  packed_matrix out;
  pack_into(out, b, a_type, exec);
  return out;
}

/// A product that is checked and dispatched once, then run many times, for small shapes where both cost more
/// than the product. Keeps the shapes, strides, types and epilogue (whose pointers must stay valid), the ISA
/// level that was active, and the executor; one plan may be run by several threads at once.
class gemm_plan {
 public:
  /// Checks as gemm() does; the data of the views is what operator()() multiplies.
  template <class A, class B, class C>
  requires gemm_types<A, B, C> gemm_plan(const matrix_view<A>& a, const matrix_view<B>& b,
                                         const matrix_view<C>& c, const epilogue& e = {},
                                         const executor& exec = serial_executor())
      : gemm_plan(detail::gemm_args(a, b, c, e, exec)) {}

  /// With packed B, which must outlive the plan.
  template <class A, class C>
  requires packed_gemm_types<A, C> gemm_plan(const matrix_view<A>& a, const packed_matrix& b,
                                             const matrix_view<C>& c, const epilogue& e = {},
                                             const executor& exec = serial_executor())
      : gemm_plan(detail::packed_args(a, b, c, e, exec)) {}

  void operator()() const { run({args_.a.data, args_.b.data, args_.c.data}); }

  /// Other operands of the same shapes, strides and types (packed B: the packed one, whatever b is). Nothing
  /// is checked: they must not be null, and C must overlap neither.
  void operator()(const void* a, const void* b, void* c) const { run({a, b, c}); }

 private:
  explicit gemm_plan(const detail::gemm_args& args) : args_(args), prepared_(detail::prepare(args_)) {}
  void run(const detail::gemm_pointers& pointers) const {
    if (prepared_.run == nullptr) return;
    if (prepared_.scratch_bytes <= detail::gemm_small_scratch)
      return prepared_.run(prepared_, args_, pointers, nullptr);
    workspace_lease lease(nullptr);
    prepared_.run(prepared_, args_, pointers, lease.reserve(prepared_.scratch_bytes));
  }

  detail::gemm_args args_;
  detail::gemm_prepared prepared_;
};

/// Bytes of scratch memory that the same call of gemm_batched (or gemm, with {}) takes on the active level:
/// a workspace of that size never grows in it.
template <class A, class B, class C>
requires gemm_types<A, B, C> index gemm_workspace(const matrix_view<A>& a, const matrix_view<B>& b,
                                                  const matrix_view<C>& c, const batch_layout& batch = {},
                                                  const epilogue& e = {},
                                                  const executor& exec = default_executor()) {
  return detail::workspace_bytes(detail::batched_args(a, b, c, e, batch, exec));
}

template <class A, class C>
requires packed_gemm_types<A, C> index gemm_workspace(const matrix_view<A>& a, const packed_matrix& b,
                                                      const matrix_view<C>& c, const epilogue& e = {},
                                                      const executor& exec = default_executor()) {
  return detail::workspace_bytes(detail::packed_args(a, b, c, e, exec));
}

EINKORN_END_NAMESPACE

#include "detail/implementation.hpp"
