// einkorn_bench: everything registers itself; names are operation/type/level/layout/shape.
#include <benchmark/benchmark.h>

#include <einkorn/einkorn.hpp>

#include "gemm_bench.hpp"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  try {
    benchmark::AddCustomContext("einkorn_cpu", einkorn::detail::state().probe.brand);
    benchmark::AddCustomContext("einkorn_isa", einkorn::name(einkorn::active_isa()));
    bench::register_gemm();
    benchmark::RunSpecifiedBenchmarks();
  } catch (const einkorn::error& e) {
    std::fprintf(stderr, "einkorn_bench: %s\n", e.what());
    return 2;
  }
}
