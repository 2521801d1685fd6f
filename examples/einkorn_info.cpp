// Prints what this machine is to einkorn: CPU, caches, each ISA level's gates, the level chosen and why.
#include <cstdio>
#include <einkorn/einkorn.hpp>

int main() {
  try {
    const std::string cpu = einkorn::cpu_name();
    const einkorn::cache_sizes caches = einkorn::caches();
    const einkorn::isa level = einkorn::active_isa();
    std::printf("einkorn %s\n", EINKORN_VERSION_STRING);
    std::printf("cpu      %s\n", cpu.empty() ? "unknown" : cpu.c_str());
    std::printf("caches   L1d %lld KiB, L2 %lld KiB, L3 %lld KiB\n", static_cast<long long>(caches.l1 >> 10),
                static_cast<long long>(caches.l2 >> 10), static_cast<long long>(caches.l3 >> 10));
    std::printf("threads  %d\n\n", einkorn::default_executor().threads);
    std::printf("%s\nruns     %s%s\n", einkorn::explain().c_str(), einkorn::name(level),
                std::getenv("EINKORN_ISA") != nullptr ? ", as EINKORN_ISA asks"
                                                      : ", the highest whose gates all pass");
  } catch (const einkorn::error& e) {
    std::fprintf(stderr, "einkorn_info: %s\n", e.what());
    return 2;
  }
}
