// adamw and gradient_norm against reference/adamw.hpp.
#include <einkorn/adamw.hpp>
#include <einkorn/reference/adamw.hpp>

#include <string>
#include <vector>

#include "support.hpp"

namespace adamw_tests {

using namespace einkorn;
using einkorn::index;  // not strings.h's
using test::guarded_buffer;

/// Tensors of these sizes, with guard pages, misaligned, with and without narrow copies and decay.
struct model {
  struct tensor {
    guarded_buffer<float> param, grad, m, v;
    guarded_buffer<bf16> brief;
    guarded_buffer<fp16> half;
  };
  std::vector<tensor> memory;
  std::vector<adamw_tensor> tensors;
  explicit model(const std::vector<index>& sizes) {
    test::random_numbers random(31);
    memory.reserve(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const index n = sizes[i], slack = static_cast<index>(i % 4);
      memory.push_back({guarded_buffer<float>(n, slack), guarded_buffer<float>(n),
                        guarded_buffer<float>(n, 1), guarded_buffer<float>(n), guarded_buffer<bf16>(n, slack),
                        guarded_buffer<fp16>(n, 1)});
      tensor& t = memory.back();
      test::fill_random(t.param, random);
      test::fill_random(t.grad, random);
      test::fill_random(t.m, random, 0.1f);
      test::fill_random(t.v, random);
      for (float& x : t.v) x = 0.01f * x * x;
      adamw_tensor a{t.param.data(), t.grad.data(), t.m.data(), t.v.data(),
                     nullptr,        dtype::bf16,   n,          i % 2 == 0};
      if (i % 3 == 0) a.narrow = t.brief.data();
      if (i % 3 == 1) a.narrow = t.half.data(), a.narrow_type = dtype::fp16;
      tensors.push_back(a);
    }
  }
  bool intact() const {
    for (const tensor& t : memory)
      if (!t.param.intact() || !t.grad.intact() || !t.m.intact() || !t.v.intact() || !t.brief.intact() ||
          !t.half.intact())
        return false;
    return true;
  }
};

const std::vector<index> sizes = {0, 1, 15, 16, 17, 33, 1000, 7, 40000, 3};

double worst = 0;  // error of a parameter, of its bound

/// Empty when `after` is one step from `before`.
std::string check_step(const model& before, const model& after, const adamw_options& o) {
  for (std::size_t i = 0; i < before.tensors.size(); ++i) {
    const adamw_tensor &b = before.tensors[i], &a = after.tensors[i];
    for (index k = 0; k < b.n; ++k) {
      const double g = static_cast<double>(o.grad_scale) * static_cast<double>(b.grad[k]);
      const double m0 = static_cast<double>(b.m[k]), v0 = static_cast<double>(b.v[k]);
      reference::adamw_element e{static_cast<double>(b.param[k]), m0, v0};
      e.step(static_cast<double>(b.grad[k]), o, b.decay);
      const double eps = 0x1p-24;
      const double m_bound = 4 * eps * (std::abs(m0) + std::abs((1 - o.beta1) * g)) + 1e-44;
      const double update =
          o.lr / (1 - std::pow(o.beta1, static_cast<double>(o.t))) /
          (std::sqrt(e.v) / std::sqrt(1 - std::pow(o.beta2, static_cast<double>(o.t))) + o.eps);
      const double p_bound = update * (m_bound + 8 * eps * std::abs(e.m)) + 3 * eps * std::abs(b.param[k]);
      const std::string at = " of tensor " + std::to_string(i) + ", element " + std::to_string(k);
      if (!test::within(static_cast<double>(a.m[k]), e.m, m_bound)) return "m" + at;
      if (!test::within(static_cast<double>(a.v[k]), e.v, 5 * eps * e.v + 1e-44)) return "v" + at;
      if (!test::within(static_cast<double>(a.param[k]), e.param, p_bound, &worst)) return "param" + at;
      if (a.grad[k] != (o.zero_grad ? 0.0f : b.grad[k])) return "grad" + at;
      if (a.narrow != nullptr) {
        const bool right = a.narrow_type == dtype::bf16
                               ? static_cast<bf16*>(a.narrow)[k].bits == bf16(a.param[k]).bits
                               : static_cast<fp16*>(a.narrow)[k].bits == fp16(a.param[k]).bits;
        if (!right) return "narrow copy" + at;
      }
    }
  }
  return after.intact() ? "" : "written beyond a tensor";
}

std::vector<adamw_options> option_sets() {
  adamw_options first, later;
  first.lr = 1e-3;
  later.lr = 5e-5;
  later.weight_decay = 0.01;
  later.t = 1234;
  later.grad_scale = 0.37f;
  later.zero_grad = true;
  later.eps = 1e-6;
  return {first, later};
}

TEST_CASE("one step, every option, any number of threads") {
  test::on_each_level([](isa) {
    for (const adamw_options& o : option_sets()) {
      const model before(sizes), after(sizes);
      adamw(after.tensors, o, serial_executor());
      CHECK(check_step(before, after, o) == "");
      test::with_thread_counts([&](const executor& exec) {
        const model again(sizes);
        adamw(again.tensors, o, exec);
        for (std::size_t i = 0; i < sizes.size(); ++i) {
          CHECK(test::same_bits(again.memory[i].param, after.memory[i].param));
          CHECK(test::same_bits(again.memory[i].m, after.memory[i].m));
          CHECK(test::same_bits(again.memory[i].v, after.memory[i].v));
          CHECK(test::same_bits(again.memory[i].brief, after.memory[i].brief));
          CHECK(test::same_bits(again.memory[i].half, after.memory[i].half));
        }
      });
    }
  });
  MESSAGE("worst error / bound of a parameter: ", worst);
}

TEST_CASE("the division into tensors does not change the bits") {
  test::on_each_level([](isa) {
    const model whole({1000}), halves({1000});
    std::vector<adamw_tensor> parts(2, halves.tensors[0]);
    parts[0].n = 333;
    parts[1].n = 667;
    parts[1].param += 333, parts[1].grad += 333, parts[1].m += 333, parts[1].v += 333;
    parts[1].narrow = static_cast<bf16*>(parts[1].narrow) + 333;
    adamw_options o;
    o.lr = 0.01;
    adamw(whole.tensors, o);
    adamw(parts, o);
    CHECK(test::same_bits(whole.memory[0].param, halves.memory[0].param));
    CHECK(test::same_bits(whole.memory[0].brief, halves.memory[0].brief));
  });
}

TEST_CASE("many steps walk to the minimum of (p - 3)^2") {
  test::on_each_level([](isa) {
    std::vector<float> p(20, 0.0f), g(20), m(20), v(20);
    const adamw_tensor tensor{p.data(), g.data(), m.data(), v.data(), nullptr, dtype::bf16, 20, false};
    reference::adamw_element exact{0, 0, 0};
    adamw_options o;
    o.lr = 0.05;
    for (o.t = 1; o.t <= 300; ++o.t) {
      for (std::size_t i = 0; i < 20; ++i) g[i] = 2 * (p[i] - 3);
      adamw({&tensor, 1}, o);
      exact.step(2 * (exact.param - 3), o, false);
    }
    CHECK(std::abs(p[19] - 3.0f) < 0.01f);
    CHECK(test::within(static_cast<double>(p[19]), exact.param, 1e-4));
  });
}

TEST_CASE("gradient norm: value, fixed order, not finite when an element is not") {
  test::on_each_level([](isa) {
    model a(sizes);
    std::vector<std::span<const float>> gradients;
    for (const adamw_tensor& t : a.tensors) gradients.emplace_back(t.grad, static_cast<std::size_t>(t.n));
    const double exact = reference::gradient_norm(gradients);
    const double norm = gradient_norm(gradients, serial_executor());
    CHECK(test::within(norm, exact, 1e-11 * exact));
    test::with_thread_counts([&](const executor& exec) { CHECK(gradient_norm(gradients, exec) == norm); });
    CHECK(gradient_norm({}) == 0.0);
    a.memory[6].grad[999] = 3e38f;  // the square overflows f32, not f64
    CHECK(gradient_norm(gradients) == doctest::Approx(3e38).epsilon(1e-6));
    a.memory[6].grad[999] = std::numeric_limits<float>::infinity();
    CHECK(std::isinf(gradient_norm(gradients)));
    a.memory[2].grad[14] = std::numeric_limits<float>::quiet_NaN();
    CHECK(std::isnan(gradient_norm(gradients)));
  });
  CHECK(clip_scale(0.5, 1.0) == 1.0f);
  CHECK(clip_scale(4.0, 1.0) == doctest::Approx(0.25));
  CHECK(std::isnan(clip_scale(std::nan(""), 1.0)));
  CHECK(clip_scale(4.0 * 1024, 1.0, 1.0 / 1024) == doctest::Approx(0.25 / 1024));
}

TEST_CASE("the checker fails a wrong kernel and a NaN kernel") {
  const model before({40}), after({40});
  adamw_options o;
  o.lr = 1e-3;
  adamw(after.tensors, o);
  REQUIRE(check_step(before, after, o) == "");
  const float right = after.memory[0].param[39];
  after.memory[0].param[39] = right + 1e-5f;
  CHECK(check_step(before, after, o) != "");
  after.memory[0].param[39] = std::numeric_limits<float>::quiet_NaN();
  CHECK(check_step(before, after, o) != "");
  after.memory[0].param[39] = right;
  o.t = 2;  // another bias correction
  CHECK(check_step(before, after, o) != "");
}

TEST_CASE("errors name tensor and value, and nothing is written") {
  std::vector<float> p(4, 7.0f), g(4, 1.0f), m(4), v(4);
  adamw_tensor tensors[2] = {{p.data(), g.data(), m.data(), v.data(), nullptr, dtype::bf16, 4, true},
                             {p.data(), g.data(), nullptr, v.data(), nullptr, dtype::bf16, 4, true}};
  adamw_options o;
  o.lr = 1;
  CHECK_THROWS_WITH_AS(adamw(tensors, o), "adamw: tensors[1].m is null for 4 elements", error);
  tensors[1].m = m.data();
  tensors[1].narrow = p.data();
  tensors[1].narrow_type = dtype::u8;
  CHECK_THROWS_WITH_AS(adamw(tensors, o), "adamw: tensors[1].narrow_type is u8, expected bf16 or fp16",
                       error);
  tensors[1].narrow_type = adamw_tensor{}.narrow_type;  // left out: no type is guessed
  CHECK_THROWS_WITH_AS(adamw(tensors, o), "adamw: tensors[1].narrow_type is f32, expected bf16 or fp16",
                       error);
  tensors[1].narrow = nullptr;
  o.t = 0;
  CHECK_THROWS_WITH_AS(adamw(tensors, o), "adamw: t 0, expected the number of the step, from 1", error);
  o.t = 1;
  o.beta2 = 1;
  CHECK_THROWS_WITH_AS(adamw(tensors, o), "adamw: beta2 1 is not in [0, 1)", error);
  for (const float x : p) CHECK(x == 7.0f);
}

}  // namespace adamw_tests
