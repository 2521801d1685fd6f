#include "rows.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace bench {
namespace {

using einkorn::any_matrix;
using einkorn::any_output;
using einkorn::dtype;
using einkorn::index;

constexpr float eps = 1e-12f;
constexpr index tokens = 4608, heads = 12, length = 384, head_cols = 64, samples = 12;

any_output view(const memory& m, dtype type, index rows, index cols) {
  any_output out;
  out.data = m.data();
  out.rows = rows;
  out.cols = out.stride = cols;
  out.type = type;
  return out;
}

float element(const memory& m, dtype type, index i) {
  if (type == dtype::f32) return m.as<float>()[i];
  if (type == dtype::bf16) return m.as<einkorn::bf16>()[i];
  return m.as<einkorn::fp16>()[i];
}
std::vector<float> elements(const memory& m, dtype type) {
  std::vector<float> out(static_cast<std::size_t>(m.bytes() / size_of(type)));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = element(m, type, static_cast<index>(i));
  return out;
}

/// Numbers in [-spread / 2, spread / 2).
memory filled(index count, dtype type, unsigned seed, float spread = 1) {
  memory m(count * size_of(type));
  fill(m, type, seed);
  if (spread != 1)
    for (index i = 0; i < count; ++i) {
      const float x = spread * element(m, type, i);
      if (type == dtype::f32) m.as<float>()[i] = x;
      if (type == dtype::bf16) m.as<einkorn::bf16>()[i] = einkorn::bf16(x);
      if (type == dtype::fp16) m.as<einkorn::fp16>()[i] = einkorn::fp16(x);
    }
  return m;
}

int sets_for(placement where, index bytes_of_a_set) {
  if (where != placement::rotating) return 1;
  return static_cast<int>(4 * last_level_cache() / bytes_of_a_set) + 2;
}

std::span<float> span_of(const memory& m) { return {m.as<float>(), static_cast<std::size_t>(m.bytes() / 4)}; }
std::span<const float> const_span_of(const memory& m) { return span_of(m); }

stream reads(const memory& m) { return {stream::read, m.data(), m.bytes()}; }
stream writes(const memory& m) { return {stream::write, m.data(), m.bytes()}; }
stream updates(const memory& m) { return {stream::update, m.data(), m.bytes()}; }

/// What the matrix operations work on; each takes what it needs.
struct buffers {
  memory x, y, dy, dx, residual, sum, narrow, dresidual;
  memory gamma, beta, dgamma, dbeta, mean, rstd, variance;
};

struct matrices {
  index rows, cols;
  dtype type;
  std::vector<buffers> sets;
  std::vector<einkorn::sequence> sequences;
};

std::string shape_text(index rows, index cols) { return std::to_string(rows) + "x" + std::to_string(cols); }

peer_rows peer_problem(peer_operation operation, const matrices& m, int i) {
  const buffers& b = m.sets[static_cast<std::size_t>(i)];
  return {operation,
          static_cast<peer_type>(m.type),
          m.rows,
          m.cols,
          executor().threads,
          b.x.data(),
          b.y.data(),
          b.dy.data(),
          b.dx.data(),
          b.gamma.as<float>(),
          b.beta.as<float>(),
          b.dgamma.as<float>(),
          b.dbeta.as<float>(),
          b.mean.as<float>(),
          b.variance.as<float>()};
}

struct matrix_case {
  const char* name;
  index rows, cols;    // out of cache
  index cache_rows;    // in cache
  int matrices_moved;  // of rows x cols, for the number of sets
};
constexpr matrix_case matrix_cases[] = {
    {"softmax", heads* samples* length, length, 128, 2},
    {"softmax_backward", heads* samples* length, length, 96, 3},
    {"layernorm", tokens, 768, 64, 2},
    {"layernorm_backward", tokens, 768, 48, 3},
    {"gelu", tokens, 3072, 16, 2},
    {"gelu_backward", tokens, 3072, 12, 3},
    {"gelu_bias_backward", tokens, 3072, 12, 3},
    {"dropout", heads* samples* length, length, 128, 2},
    {"dropout_residual_layernorm", tokens, 768, 32, 4},
    {"dropout_residual_layernorm_backward", tokens, 768, 32, 4},
    {"cross_entropy", tokens, 30522, 0, 2},
};

rows_operation matrix_operation(const matrix_case& c, dtype type, placement where) {
  const std::string name = c.name;
  const auto is = [&](const char* other) { return name == other; };
  auto m = std::make_shared<matrices>();
  m->rows = where == placement::cache ? c.cache_rows : c.rows;
  m->cols = c.cols;
  m->type = type;
  const index count = m->rows * m->cols;
  const einkorn::executor exec = executor();
  rows_operation op;
  op.shape = shape_text(m->rows, m->cols);
  op.sets = sets_for(where, count * size_of(type) * c.matrices_moved);
  const float spread = name.rfind("gelu", 0) == 0 ? 8.0f : is("cross_entropy") ? 4.0f : 2.0f;
  for (int i = 0; i < op.sets; ++i) {
    const auto seed = static_cast<unsigned>(10 * i);
    buffers b;
    b.x = filled(count, type, seed + 1, spread);
    b.y = memory(count * size_of(type));
    if (is("cross_entropy")) {  // no others: each has 560 MB
      m->sets.push_back(std::move(b));
      break;
    }
    b.dy = filled(count, type, seed + 2);
    b.dx = memory(count * size_of(type));
    if (name.find("residual") != std::string::npos) {
      b.residual = filled(count, dtype::f32, seed + 3);
      b.sum = filled(count, dtype::f32, seed + 4, 2);
      b.y = memory(count * 4);
      if (type != dtype::f32) b.narrow = memory(count * size_of(type));
      b.dy = filled(count, dtype::f32, seed + 2);
      b.dresidual = memory(count * 4);
    }
    b.gamma = filled(m->cols, dtype::f32, 5);
    b.beta = filled(m->cols, dtype::f32, 6);
    b.dgamma = memory(m->cols * 4);
    b.dbeta = memory(m->cols * 4);
    b.mean = memory(m->rows * 4);
    b.rstd = memory(m->rows * 4);
    b.variance = memory(m->rows * 4);
    m->sets.push_back(std::move(b));
  }
  op.owned.push_back(m);

  const auto x = [m](const buffers& b) { return view(b.x, m->type, m->rows, m->cols); };
  const auto y = [m](const buffers& b) { return view(b.y, m->type, m->rows, m->cols); };
  const auto dy = [m](const buffers& b) { return view(b.dy, m->type, m->rows, m->cols); };
  const auto dx = [m](const buffers& b) { return view(b.dx, m->type, m->rows, m->cols); };
  const auto wide = [m](const memory& b) { return view(b, dtype::f32, m->rows, m->cols); };
  const auto set = [m](int i) -> const buffers& { return m->sets[static_cast<std::size_t>(i)]; };
  const auto forward_streams = [set](int i) { return std::vector{reads(set(i).x), writes(set(i).y)}; };
  op.peer = [](int) { return std::nullopt; };
  const auto peer_is = [&op, m](peer_operation operation) {
    op.peer = [m, operation](int i) { return std::optional(peer_problem(operation, *m, i)); };
  };

  if (is("softmax")) {
    op.call = [=](int i) { einkorn::softmax(x(set(i)), y(set(i)), {}, exec); };
    op.streams = forward_streams;
    peer_is(peer_softmax);
  } else if (is("softmax_backward")) {
    for (int i = 0; i < op.sets; ++i) einkorn::softmax(x(set(i)), y(set(i)), {}, exec);
    op.call = [=](int i) { einkorn::softmax_backward(y(set(i)), dy(set(i)), dx(set(i)), 1, exec); };
    op.streams = [set](int i) { return std::vector{reads(set(i).y), reads(set(i).dy), writes(set(i).dx)}; };
    peer_is(peer_softmax_backward);
  } else if (is("layernorm") || is("layernorm_backward")) {
    const auto forward = [=](int i) {
      const buffers& b = set(i);
      einkorn::layernorm(x(b), const_span_of(b.gamma), const_span_of(b.beta), eps, y(b),
                         {.mean = span_of(b.mean), .rstd = span_of(b.rstd)}, exec);
    };
    if (is("layernorm")) {
      op.call = forward;
      op.streams = forward_streams;
      peer_is(peer_layernorm);
    } else {
      for (int i = 0; i < op.sets; ++i) {
        forward(i);
        for (index r = 0; r < m->rows; ++r) {
          const float rstd = set(i).rstd.as<float>()[r];
          set(i).variance.as<float>()[r] = 1 / (rstd * rstd) - eps;
        }
      }
      op.call = [=](int i) {
        const buffers& b = set(i);
        einkorn::layernorm_backward(dy(b), x(b), const_span_of(b.gamma), const_span_of(b.mean),
                                    const_span_of(b.rstd), dx(b), span_of(b.dgamma), span_of(b.dbeta), false,
                                    exec);
      };
      op.streams = [set](int i) { return std::vector{reads(set(i).x), reads(set(i).dy), writes(set(i).dx)}; };
      peer_is(peer_layernorm_backward);
    }
  } else if (is("gelu")) {
    op.call = [=](int i) { einkorn::gelu(x(set(i)), y(set(i)), einkorn::gelu_form::erf, exec); };
    op.streams = forward_streams;
    peer_is(peer_gelu);
  } else if (is("gelu_backward") || is("gelu_bias_backward")) {
    const bool bias = is("gelu_bias_backward");
    op.call = [=](int i) {
      const buffers& b = set(i);
      einkorn::gelu_backward(dy(b), x(b), dx(b), bias ? span_of(b.dbeta) : std::span<float>(),
                             einkorn::gelu_form::erf, exec);
    };
    op.streams = [set](int i) { return std::vector{reads(set(i).x), reads(set(i).dy), writes(set(i).dx)}; };
    if (!bias) peer_is(peer_gelu_backward);
  } else if (is("dropout")) {
    op.call = [=](int i) {
      einkorn::dropout(x(set(i)), y(set(i)), {.p = 0.1f, .seed = 1, .step = 2, .site = 3}, exec);
    };
    op.streams = forward_streams;
  } else if (is("dropout_residual_layernorm") || is("dropout_residual_layernorm_backward")) {
    const einkorn::dropout_spec spec{.p = 0.1f, .seed = 1, .step = 2, .site = 3};
    const auto forward_with = [=](int i, const einkorn::dropout_spec& dropout) {
      const buffers& b = set(i);
      einkorn::layernorm_outputs outputs{.mean = span_of(b.mean), .rstd = span_of(b.rstd)};
      if (type != dtype::f32) outputs.narrow = view(b.narrow, type, m->rows, m->cols);
      einkorn::dropout_residual_layernorm(x(b), wide(b.residual), const_span_of(b.gamma),
                                          const_span_of(b.beta), eps, dropout, wide(b.sum), wide(b.y),
                                          outputs, exec);
    };
    const auto forward = [=](int i) { forward_with(i, spec); };
    op.own_name = "without_dropout";
    if (is("dropout_residual_layernorm")) {
      op.call = forward;
      op.own = [=](int i) { forward_with(i, {}); };
      op.streams = [set, type](int i) {
        const buffers& b = set(i);
        std::vector out{reads(b.x), reads(b.residual), writes(b.sum), writes(b.y)};
        if (type != dtype::f32) out.push_back(writes(b.narrow));
        return out;
      };
    } else {
      for (int i = 0; i < op.sets; ++i) forward(i);
      const auto backward_with = [=](int i, const einkorn::dropout_spec& dropout) {
        const buffers& b = set(i);
        einkorn::dropout_residual_layernorm_backward(
            wide(b.dy), wide(b.sum), const_span_of(b.gamma), const_span_of(b.mean), const_span_of(b.rstd),
            dropout, dx(b), wide(b.dresidual), span_of(b.dgamma), span_of(b.dbeta), {}, exec);
      };
      op.call = [=](int i) { backward_with(i, spec); };
      op.own = [=](int i) { backward_with(i, {}); };
      op.streams = [set](int i) {
        const buffers& b = set(i);
        return std::vector{reads(b.dy), reads(b.sum), writes(b.dx), writes(b.dresidual)};
      };
    }
  } else {
    auto targets = std::make_shared<std::vector<std::int32_t>>();
    for (index r = 0; r < m->rows; ++r) targets->push_back(static_cast<std::int32_t>(r * 7919 % m->cols));
    einkorn::cross_entropy_options options;
    options.divisor = static_cast<double>(m->rows);
    op.call = [=](int i) { einkorn::cross_entropy(x(set(i)), *targets, options, y(set(i)), exec); };
    op.streams = forward_streams;
  }
  const bool backward = name.find("backward") != std::string::npos;
  op.result = [m, backward](int i) {
    const buffers& b = m->sets[static_cast<std::size_t>(i)];
    return elements(backward ? b.dx : b.y, m->type);
  };
  return op;
}

/// The parameters of BERT-base in as many tensors of about the usual sizes.
rows_operation optimizer_operation(const std::string& name, dtype type) {
  struct state {
    memory param, grad, m, v, narrow;  // all tensors, one after the other
    std::vector<einkorn::adamw_tensor> tensors;
    std::vector<std::span<const float>> gradients;
  };
  std::vector<index> sizes{30522 * 768, 512 * 768, 2 * 768, 768, 768};
  for (int layer = 0; layer < 12; ++layer)
    sizes.insert(sizes.end(), {3 * 768 * 768, 3 * 768, 768 * 768, 768, 768, 768, 3072 * 768, 3072, 768 * 3072,
                               768, 768, 768});
  sizes.insert(sizes.end(), {2 * 768, 2});
  index all = 0;
  for (const index n : sizes) all += n;
  const bool adamw = name == "adamw", narrow = type != dtype::f32;
  auto s = std::make_shared<state>();
  s->grad = filled(all, dtype::f32, 2, 1e-3f);
  if (adamw) {
    s->param = filled(all, dtype::f32, 1, 0.1f);
    s->m = memory(all * 4);
    s->v = memory(all * 4);
    if (narrow) s->narrow = memory(all * size_of(type));
  }
  index first = 0;
  for (const index n : sizes) {
    s->gradients.emplace_back(s->grad.as<float>() + first, static_cast<std::size_t>(n));
    if (adamw)
      s->tensors.push_back({.param = s->param.as<float>() + first,
                            .grad = s->grad.as<float>() + first,
                            .m = s->m.as<float>() + first,
                            .v = s->v.as<float>() + first,
                            .narrow = narrow ? s->narrow.as<char>() + first * size_of(type) : nullptr,
                            .narrow_type = type,
                            .n = n});
    first += n;
  }
  const einkorn::executor exec = executor();
  rows_operation op;
  op.shape = std::to_string(all / 1000000) + "M";
  if (adamw)
    op.call = [=](int) { einkorn::adamw(s->tensors, {.lr = 3e-5, .weight_decay = 0.01, .t = 10}, exec); };
  else
    op.call = [=](int) { einkorn::gradient_norm(s->gradients, exec); };
  op.streams = [=](int) {
    std::vector out{reads(s->grad)};
    if (adamw) out.insert(out.end(), {updates(s->param), updates(s->m), updates(s->v)});
    if (adamw && narrow) out.push_back(writes(s->narrow));
    return out;
  };
  op.peer = [](int) { return std::nullopt; };
  op.owned.push_back(s);
  return op;
}

rows_operation attention_operation(const std::string& name, dtype type) {
  struct state {
    memory qkv, out, dout, dqkv, lse;
    std::vector<einkorn::sequence> sequences;
    memory q, k, v, scores, y;  // of the products alone
  };
  const index cols = heads * head_cols;
  auto s = std::make_shared<state>();
  s->qkv = filled(tokens * 3 * cols, type, 1, 2);
  s->out = memory(tokens * cols * size_of(type));
  s->dout = filled(tokens * cols, type, 2);
  s->dqkv = memory(tokens * 3 * cols * size_of(type));
  s->lse = memory(heads * tokens * 4);
  for (index i = 0; i < samples; ++i)
    s->sequences.push_back({.first_row = i * length,
                            .rows = static_cast<std::int32_t>(length),
                            .keys = static_cast<std::int32_t>(length),
                            .sample = static_cast<std::uint32_t>(i)});
  constexpr index batch = heads * samples;
  for (memory* m : {&s->q, &s->k, &s->v}) *m = filled(batch * length * head_cols, type, 4);
  s->scores = filled(batch * length * length, type, 5);
  s->y = memory(batch * length * head_cols * size_of(type));

  const bool backward = name.find("backward") != std::string::npos;
  einkorn::attention_options options;
  options.heads = static_cast<int>(heads);
  if (name.find("nodrop") == std::string::npos)
    options.dropout = {.p = 0.1f, .seed = 1, .step = 2, .site = 3};
  const any_output qkv = view(s->qkv, type, tokens, 3 * cols), out = view(s->out, type, tokens, cols),
                   dout = view(s->dout, type, tokens, cols), dqkv = view(s->dqkv, type, tokens, 3 * cols);
  const einkorn::executor exec = executor();
  const auto forward = [=](int) {
    einkorn::attention(qkv, s->sequences, out, span_of(s->lse), options, exec);
  };
  rows_operation op;
  op.shape = std::to_string(samples) + "x" + std::to_string(heads) + "x" + std::to_string(length) + "x" +
             std::to_string(head_cols);
  if (backward) {
    forward(0);
    op.call = [=](int) {
      einkorn::attention_backward(qkv, out, dout, const_span_of(s->lse), s->sequences, dqkv, options, exec);
    };
  } else {
    op.call = forward;
  }
  op.streams = [s, backward](int) {
    if (backward) return std::vector{reads(s->qkv), reads(s->out), reads(s->dout), writes(s->dqkv)};
    return std::vector{reads(s->qkv), writes(s->out)};
  };
  const double product = 2.0 * static_cast<double>(batch * length * length * head_cols);
  op.flop = (backward ? 5 : 2) * product;
  // Scores = Q K', and then out = P V; backward: scores and dP like the first, dV, dQ and dK like the second.
  const auto multiply = [type, exec](const memory& a, bool a_transposed, const memory& b, bool b_transposed,
                                     const memory& c, index rows, index depth, index columns) {
    any_matrix ma = view(a, type, rows, depth), mb = view(b, type, depth, columns);
    ma.transposed = a_transposed;
    if (a_transposed) ma.stride = rows;
    mb.transposed = b_transposed;
    if (b_transposed) mb.stride = depth;
    einkorn::detail::gemm_any(ma, mb, view(c, type, rows, columns), {},
                              {batch, rows * depth, depth * columns, rows * columns}, exec, nullptr);
  };
  op.own_name = "products";
  op.own = [=](int) {
    for (int i = 0; i < (backward ? 2 : 1); ++i)
      multiply(s->q, false, s->k, true, s->scores, length, head_cols, length);
    multiply(s->scores, backward, s->v, false, s->y, length, length, head_cols);
    if (backward) {
      multiply(s->scores, false, s->k, false, s->y, length, length, head_cols);
      multiply(s->scores, true, s->q, false, s->y, length, length, head_cols);
    }
  };
  op.peer = [](int) { return std::nullopt; };
  op.owned.push_back(s);
  return op;
}

}  // namespace

std::string name(placement where) {
  constexpr const char* names[] = {"reused", "rotating", "cache"};
  return names[static_cast<int>(where)];
}

const std::vector<std::string>& operation_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const matrix_case& c : matrix_cases) out.push_back(c.name);
    out.insert(out.end(), {"adamw", "gradient_norm", "attention", "attention_backward", "attention_nodrop",
                           "attention_nodrop_backward"});
    return out;
  }();
  return names;
}

bool exists(const std::string& name, dtype type, placement where) {
  for (const matrix_case& c : matrix_cases)
    if (name == c.name) {
      if (where == placement::cache) return c.cache_rows > 0;
      // One set that no cache holds needs no others.
      return where == placement::reused ||
             c.rows * c.cols * size_of(type) * c.matrices_moved < 4 * last_level_cache();
    }
  return where == placement::reused && (name != "gradient_norm" || type == dtype::f32);
}

rows_operation make_operation(const std::string& name, dtype type, placement where) {
  if (!exists(name, type, where)) throw std::invalid_argument(name + " does not exist " + bench::name(where));
  for (const matrix_case& c : matrix_cases)
    if (name == c.name) return matrix_operation(c, type, where);
  if (name == "adamw" || name == "gradient_norm") return optimizer_operation(name, type);
  if (name.rfind("attention", 0) == 0) return attention_operation(name, type);
  throw std::invalid_argument("there is no operation " + name);
}

}  // namespace bench
