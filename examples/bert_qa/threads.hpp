#pragma once

#include <cstdint>

namespace bert_qa {

/// Makes the library use so many threads; 0 leaves its default, all cores. One line of complaint by
/// input_error where the program was built without OpenMP and more than one is asked for.
void use_threads(std::int64_t threads);

}  // namespace bert_qa
