// einkorn_bench: names are operation/type/level/shape/variant/threads:N.
//
// One process measures one ISA level (EINKORN_ISA, else the highest) and one number of threads, because
// several peers read both once, when they start. Our own options stand before Google Benchmark's:
//   --threads=1      threads of both sides; the process is bound to as many cores
//   --seconds=0.3    of measured calls for each contestant of a benchmark
//   --peers=a,b      only these, or none
//   --quick          the few benchmarks that a first look needs
//   --serve          answers requests on the standard input, see serve.cpp
#include <benchmark/benchmark.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "contest.hpp"
#include "machine.hpp"
#include "peers.hpp"
#include "registration.hpp"

namespace bench {
namespace {
process_settings chosen;

/// The value when `argument` is --NAME=value.
const char* value_of(const char* argument, const char* name) {
  const std::size_t length = std::strlen(name);
  return std::strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1
                                                                              : nullptr;
}

/// Sets the environment that peers read when they are loaded, and starts the program again in it: OpenMP's
/// run-time library has read its part already.
void start_again_in_peers_environment(char** argv) {
  if (std::getenv("EINKORN_BENCH_ENVIRONMENT") != nullptr) return;
  // Some peers count the cores that they may use, and listen to nothing else.
  cpu_set_t may, chosen_ones;
  CPU_ZERO(&chosen_ones);
  if (sched_getaffinity(0, sizeof(may), &may) == 0 && CPU_COUNT(&may) > chosen.threads) {
    if (chosen.threads == 1) CPU_SET(std::max(0, sched_getcpu()), &chosen_ones);
    for (int cpu = 0; CPU_COUNT(&chosen_ones) < chosen.threads; ++cpu)
      if (CPU_ISSET(cpu, &may)) CPU_SET(cpu, &chosen_ones);
    sched_setaffinity(0, sizeof(chosen_ones), &chosen_ones);
  }
  for (const auto& [name, value] : peer_environment(chosen.threads)) setenv(name.c_str(), value.c_str(), 0);
  setenv("EINKORN_BENCH_ENVIRONMENT", "1", 1);
  execv("/proc/self/exe", argv);
  std::perror("einkorn_bench: execv");
}
}  // namespace

const process_settings& settings() { return chosen; }

}  // namespace bench

int main(int argc, char** argv) {
  using namespace bench;
  std::vector<std::string> wanted;
  std::vector<char*> rest{argv[0]};
  bool serve_requests = false;
  for (int i = 1; i < argc; ++i) {
    if (const char* value = value_of(argv[i], "--threads"))
      chosen.threads = std::max(1, std::atoi(value));
    else if (const char* seconds = value_of(argv[i], "--seconds"))
      chosen.seconds = std::atof(seconds);
    else if (const char* list = value_of(argv[i], "--peers")) {
      std::string name;
      for (const char* c = list;; ++c) {
        if (*c != ',' && *c != '\0') {
          name += *c;
          continue;
        }
        wanted.push_back(name);
        name.clear();
        if (*c == '\0') break;
      }
    } else if (std::strcmp(argv[i], "--quick") == 0)
      chosen.quick = true;
    else if (std::strcmp(argv[i], "--serve") == 0)
      serve_requests = true;
    else
      rest.push_back(argv[i]);
  }
  // Every benchmark measures once, in as many rounds as its own time allows: one iteration is enough.
  char once[] = "--benchmark_min_time=1e-9";
  rest.insert(rest.begin() + 1, once);
  try {
    start_again_in_peers_environment(argv);
    if (serve_requests) return serve();
    int count = static_cast<int>(rest.size());
    benchmark::Initialize(&count, rest.data());
    if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
    benchmark::AddCustomContext("einkorn_cpu", einkorn::detail::state().probe.brand);
    benchmark::AddCustomContext("einkorn_isa", einkorn::name(einkorn::active_isa()));
    benchmark::AddCustomContext("einkorn_threads", std::to_string(chosen.threads));
    start_threads();  // before any peer can have an influence on them
    for (const peer& p : load_peers(wanted))
      benchmark::AddCustomContext("peer_" + p.name, (p.functions != nullptr ? "" : "absent: ") + p.remark);
    register_gemm();
    register_rows();
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "einkorn_bench: %s\n", e.what());
    return 2;
  }
}
