// amp.hpp: the loss scale beside a plain model of torch.amp.GradScaler, and the table of types.
#include <einkorn/amp.hpp>

#include <functional>
#include <string>

#include "support.hpp"

namespace amp_tests {

using namespace einkorn;

/// What torch's _amp_update_scale_ does, written down from its documentation: one tensor for the scale, one
/// for the growth tracker.
struct torch_scaler {
  float scale = 65536;
  int growth_tracker = 0;
  void update(bool found_inf, float growth, float backoff, int interval) {
    if (found_inf) {
      scale *= backoff;
      growth_tracker = 0;
      return;
    }
    const int successful = growth_tracker + 1;
    if (successful == interval) {
      const float new_scale = scale * growth;
      if (!std::isinf(new_scale)) scale = new_scale;
      growth_tracker = 0;
    } else {
      growth_tracker = successful;
    }
  }
};

TEST_CASE("the scale goes the way of torch's GradScaler, whatever the steps are like") {
  for (const std::int64_t interval : {std::int64_t{1}, std::int64_t{3}, std::int64_t{2000}}) {
    for (const float start : {65536.0f, 0x1p-120f, 0x1p126f}) {
      test::random_numbers random(7);
      loss_scaler scaler(true, {.initial = start, .growth_interval = interval});
      torch_scaler expected;
      expected.scale = start;
      std::int64_t skipped = 0, grown = 0;
      for (int step = 0; step < 9000; ++step) {
        // Long good runs, so that even the interval of 2000 is reached, and bursts of overflows.
        const bool finite = step % 3001 < 2500 || random.below(2) == 0;
        const float before = scaler.scale();
        if (before > 0) CHECK(scaler.unscale() * static_cast<double>(before) == 1.0);
        CHECK(scaler.update(finite) == finite);
        expected.update(!finite, 2, 0.5f, static_cast<int>(interval));
        skipped += !finite;
        grown += scaler.scale() > before;
        REQUIRE(scaler.scale() == expected.scale);
        REQUIRE(scaler.state().good_steps == expected.growth_tracker);
      }
      CHECK(scaler.skipped() == skipped);
      CHECK(grown > 0);
    }
  }
}

TEST_CASE("a step as loss_scaler's comment has it: the clip is that of the gradients without the scale") {
  const std::vector<float> exact = {3, -4, 12};  // of norm 13
  for (const double max_norm : {1.0, 100.0})
    for (const float scale : {1.0f, 1024.0f, 65536.0f}) {
      INFO("max_norm ", max_norm, " scale ", scale);
      loss_scaler scaler(true, {.initial = scale, .growth_interval = 1});  // update() changes the scale
      std::vector<float> p(3), g, m(3), v(3);
      for (const float x : exact) g.push_back(x * scaler.scale());
      const std::span<const float> gradients[] = {g};
      const adamw_tensor tensors[] = {
          {.param = p.data(), .grad = g.data(), .m = m.data(), .v = v.data(), .n = 3}};

      const double unscale = scaler.unscale();
      const double norm = gradient_norm(gradients);
      REQUIRE(scaler.update(std::isfinite(norm)));
      adamw(tensors, {.lr = 1, .beta1 = 0, .grad_scale = clip_scale(norm, max_norm, unscale)});

      for (std::size_t i = 0; i < 3; ++i)  // m is the gradient that was used
        CHECK(static_cast<double>(m[i]) ==
              doctest::Approx(static_cast<double>(exact[i]) * std::fmin(1.0, max_norm / 13)).epsilon(1e-6));

      g[1] = std::numeric_limits<float>::infinity();
      CHECK(!scaler.update(std::isfinite(gradient_norm(gradients))));
    }
}

TEST_CASE("the state is complete: a scaler that takes it over continues alike") {
  const loss_scaler_options options{.initial = 8, .growth = 4, .backoff = 0.25f, .growth_interval = 3};
  loss_scaler first(true, options), second(true, options);
  for (const bool finite : {true, true, true, false, true, true}) first.update(finite);
  CHECK(first.scale() == 8);  // x 4, x 0.25
  second.state() = first.state();
  for (const bool finite : {true, false, true, true, true}) {
    first.update(finite);
    second.update(finite);
    CHECK(first.scale() == second.scale());
    CHECK(first.skipped() == second.skipped());
  }
}

TEST_CASE("not enabled: the scale is 1, and steps that are not finite are still refused and counted") {
  loss_scaler scaler(false);
  for (int step = 0; step < 5000; ++step) CHECK(scaler.update(step % 10 != 0) == (step % 10 != 0));
  CHECK(scaler.scale() == 1);
  CHECK(scaler.skipped() == 500);
  scaler.state().scale = 1024;  // of a run that was
  CHECK(scaler.scale() == 1);
  CHECK(scaler.unscale() == 1);
}

TEST_CASE("settings that cannot work are errors") {
  const auto refused = [](const loss_scaler_options& options) {
    return test::error_of([&] { loss_scaler scaler(true, options); });
  };
  CHECK(refused({}) == "no error");
  CHECK(refused({.initial = 0}) == "loss_scaler: initial must be positive and finite");
  CHECK(refused({.initial = std::numeric_limits<float>::quiet_NaN()}) != "no error");
  CHECK(refused({.growth = 1}) == "loss_scaler: growth must be above 1 and finite");
  CHECK(refused({.backoff = 1}) == "loss_scaler: backoff must be between 0 and 1");
  CHECK(refused({.growth_interval = 0}) == "loss_scaler: growth_interval must be positive");
}

TEST_CASE("the types of a step") {
  for (const dtype narrow : {dtype::f32, dtype::bf16, dtype::fp16}) {
    constexpr dtype f32 = dtype::f32;
    const precision_policy policy{narrow};
    CHECK(policy.master() == f32);
    CHECK(policy.scales_loss() == (narrow == dtype::fp16));
    for (const operation op : {operation::linear, operation::attention, operation::activation})
      CHECK(policy.of(op) == operation_types{narrow, f32, narrow});
    CHECK(policy.of(operation::weight_gradient) == operation_types{narrow, f32, f32});
    for (const operation op : {operation::embedding, operation::layernorm, operation::head, operation::loss,
                               operation::gradient_norm, operation::optimizer})
      CHECK(policy.of(op) == operation_types{f32, f32, f32});
  }
}

}  // namespace amp_tests
