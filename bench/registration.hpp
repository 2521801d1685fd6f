#pragma once

namespace bench {
void register_gemm();
void register_rows();
int serve();  ///< the program's exit code
}  // namespace bench
