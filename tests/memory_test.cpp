// The plan of the memory beside what the system says that the process has.
#include "memory.hpp"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "bert.hpp"
#include "parameters.hpp"
#include "support.hpp"
#include "trainer.hpp"

using namespace bert_qa;

namespace {

std::size_t resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmRSS:")) return std::stoull(line.substr(6)) * 1024;
  return 0;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;  // shadow memory counts, too
#else
constexpr bool sanitized = false;
#endif

}  // namespace

TEST_CASE("what the plan says is what the process has, with and without checkpointing") {
  if (test::quick() || sanitized) {
    MESSAGE("skipped 1: an emulator or a sanitizer has memory of its own");
    return;
  }
  bert_config config;
  config.hidden_size = 384;
  config.num_hidden_layers = 6;
  config.num_attention_heads = 6;
  config.intermediate_size = 1536;
  config.vocab_size = 8000;
  config.max_position_embeddings = 128;
  std::vector<feature> data(24);
  for (feature& f : data) {
    f.input_ids.assign(128, 7);
    f.token_type_ids.assign(128, 0);
    f.start_position = f.end_position = 3;
    f.offsets.resize(128);
  }
  double plans[2];
  for (const bool checkpointing : {false, true}) {
    // In a process of its own: memory that another run gave back may still be resident.
    double measured[2] = {};
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    if (child == 0) {
      count_allocations();
      const auto before = static_cast<double>(resident_bytes());
      parameter_table table(config, einkorn::dtype::bf16);
      table.initialise(1);
      const auto model = make_bert(config, table, {.gradient_checkpointing = checkpointing});
      trainer training(config, table, *model, data, {.batch_size = 12});
      training.step();
      // What the tensors take, and what the kernels keep as scratch memory beside them.
      const std::size_t tensors = total_bytes(table.memory()) + total_bytes(model->memory());
      if (tensors > allocated_bytes() || 20 * (allocated_bytes() - tensors) > tensors) _exit(2);
      measured[0] = static_cast<double>(allocated_bytes());
      measured[1] = static_cast<double>(resident_bytes()) - before;
      _exit(write(ends[1], measured, sizeof measured) == sizeof measured ? 0 : 1);
    }
    REQUIRE(child > 0);
    CHECK(read(ends[0], measured, sizeof measured) == sizeof measured);
    int status = 0;
    waitpid(child, &status, 0);
    close(ends[0]);
    close(ends[1]);
    REQUIRE(status == 0);
    const double planned = measured[0], grown = measured[1];
    CAPTURE(planned);
    CAPTURE(grown);
    // Large blocks end on a huge page: up to 2 MiB each, which is less than 1 % of a BERT-base.
    CHECK(std::abs(grown - planned) <= 0.05 * planned);
    plans[checkpointing] = planned;
  }
  // Levels without bf16 products keep packed weights as f32, in both plans.
  const bool packs_bf16 = einkorn::active_isa() >= einkorn::isa::avx512_bf16;
  CHECK(plans[1] < (packs_bf16 ? 0.85 : 0.855) * plans[0]);
}

TEST_CASE("the plan as text") {
  const std::vector<memory_use> uses = {{"weights", 3 << 20}, {"nothing", 0}, {"buffers", 1 << 19}};
  CHECK(memory_text(uses, 4 << 20) ==
        "memory after the first step, MiB\n"
        "  weights                                        3.0\n"
        "  buffers                                        0.5\n"
        "  sum                                            3.5\n"
        "  program, data, rounding to pages               0.5\n");
  CHECK(total_bytes(uses) == (7 << 19));
  CHECK(peak_memory() > 1 << 20);
}
