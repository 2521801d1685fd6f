#pragma once

namespace bench {

/// What the command line chose for the whole process.
struct process_settings {
  int threads = 1;
  double seconds = 0.3;  ///< of measured calls for each contestant of a benchmark
  bool quick = false;    ///< the few benchmarks that a first look needs
};
/// Defined where main is.
const process_settings& settings();

}  // namespace bench
