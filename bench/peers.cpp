#include "peers.hpp"

#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <filesystem>

#include "machine.hpp"

namespace bench {
namespace {

constexpr const char* known[] = {"onednn", "onednn_new", "openblas", "libxsmm", "mkl", "numkong"};

/// Some libraries bind the thread that starts them to a core, and threads that it starts later with it.
/// Whoever is asked to do something gives the thread back as it was.
class affinity_keeper {
 public:
  affinity_keeper() { sched_getaffinity(0, sizeof(cores_), &cores_); }
  ~affinity_keeper() { sched_setaffinity(0, sizeof(cores_), &cores_); }
  affinity_keeper(const affinity_keeper&) = delete;
  affinity_keeper& operator=(const affinity_keeper&) = delete;

 private:
  cpu_set_t cores_;
};

std::filesystem::path program_folder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

peer load(const std::string& name) {
  const affinity_keeper keeper;
  peer result{name, nullptr, ""};
  const std::filesystem::path file = program_folder() / "peers" / ("peer_" + name + ".so");
  if (!std::filesystem::exists(file)) {
    result.remark = "not installed when this program was built";
    return result;
  }
  void* const object = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (object == nullptr) {
    result.remark = dlerror();
    return result;
  }
  const auto entry = reinterpret_cast<peer_entry>(dlsym(object, "einkorn_bench_peer"));
  if (entry != nullptr) result.functions = entry();
  result.remark = result.functions != nullptr ? result.functions->version : "its library does not start";
  return result;
}

}  // namespace

const std::vector<peer>& load_peers(const std::vector<std::string>& wanted) {
  static std::vector<peer> loaded;
  static bool done = false;
  if (std::exchange(done, true)) return loaded;
  if (wanted.empty())
    for (const char* name : known) loaded.push_back(load(name));
  else
    for (const std::string& name : wanted)
      if (name != "none") loaded.push_back(load(name));
  return loaded;
}

std::vector<std::pair<std::string, std::string>> peer_environment(int threads) {
  const std::string count = std::to_string(threads);
  std::vector<std::pair<std::string, std::string>> out = {
    {"OMP_NUM_THREADS", count},
    {"OPENBLAS_NUM_THREADS", count},
    {"MKL_NUM_THREADS", count},
    // Idle threads sleep soon (a fraction of a millisecond, much more than the gaps between the calls of one
    // library), so that they do not take a core from the next library.
    {"GOMP_SPINCOUNT", "10000"},
    {"OPENBLAS_THREAD_TIMEOUT", "20"},
#if defined(EINKORN_BENCH_SYCL_FOLDER)
    // The SYCL build of oneDNN reaches the CPU through this driver; its adapters look for each other here.
    {"OCL_ICD_FILENAMES", EINKORN_BENCH_SYCL_FOLDER "/libintelocl.so"},
    {"ONEAPI_DEVICE_SELECTOR", "opencl:cpu"},
    {"LD_LIBRARY_PATH", EINKORN_BENCH_SYCL_FOLDER},
#endif
  };
  const einkorn::isa level = einkorn::active_isa();
  const bool amd = einkorn::detail::state().probe.brand.find("AMD") != std::string::npos;
  if (level <= einkorn::isa::avx2) {
    out.insert(out.end(), {{"OPENBLAS_CORETYPE", "Haswell"},
                           {"MKL_ENABLE_INSTRUCTIONS", "AVX2"},
                           {"ONEDNN_MAX_CPU_ISA", "AVX2"},
                           {"LIBXSMM_TARGET", "hsw"}});
  } else if (amd) {  // where OpenBLAS leaves AVX-512 unused
    out.push_back({"OPENBLAS_CORETYPE", level >= einkorn::isa::avx512_bf16 ? "Cooperlake" : "SkylakeX"});
  }
  return out;
}

prepared::prepared(const peer& who, const peer_gemm& problem) : functions_(who.functions) {
  const affinity_keeper keeper;
  if (functions_->prepare_gemm == nullptr)
    refusal_ = "has no product";
  else if (const char* why = functions_->prepare_gemm(&problem, &handle_))
    refusal_ = why;
}
prepared::prepared(const peer& who, const peer_rows& problem) : functions_(who.functions) {
  const affinity_keeper keeper;
  if (functions_->prepare_rows == nullptr)
    refusal_ = "has no such operation";
  else if (const char* why = functions_->prepare_rows(&problem, &handle_))
    refusal_ = why;
}
prepared::~prepared() {
  if (handle_ != nullptr) functions_->release(handle_);
}
prepared::prepared(prepared&& other) noexcept
    : functions_(other.functions_),
      handle_(std::exchange(other.handle_, nullptr)),
      refusal_(std::move(other.refusal_)) {}

}  // namespace bench
