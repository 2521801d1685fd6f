#include "threads.hpp"

#include <einkorn/executor.hpp>
#include <string>

#if defined(_OPENMP)
#include <einkorn/openmp.hpp>
#endif

#include "input_error.hpp"

namespace bert_qa {

void use_threads(std::int64_t threads) {
  if (threads == 0) return;
#if defined(_OPENMP)
  einkorn::set_default_executor(einkorn::openmp_executor(static_cast<int>(threads)));
#else
  if (threads != 1)
    throw input_error("--threads", "1, as this program was built without OpenMP", std::to_string(threads));
  einkorn::set_default_executor(einkorn::serial_executor());
#endif
}

}  // namespace bert_qa
