// The peers that were built and start here; the others are named with the reason.
#pragma once

#include <string>
#include <vector>

#include "peer.hpp"

namespace bench {

struct peer {
  std::string name;
  const peer_interface* functions = nullptr;  ///< null: absent
  std::string remark;                         ///< its version, or why it is absent
};

/// Loads `wanted`, all that are known when it is empty, from the folder peers/ beside the program: the first
/// call does, the others return what it loaded. "none" is no peer.
const std::vector<peer>& load_peers(const std::vector<std::string>& wanted = {});

/// What must be in the environment before the program starts, so that every peer uses the same threads and
/// the best instructions that the active level allows. Values that the user set are kept.
std::vector<std::pair<std::string, std::string>> peer_environment(int threads);

/// A prepared problem; released with the object.
class prepared {
 public:
  prepared(const peer& who, const peer_gemm& problem);
  prepared(const peer& who, const peer_rows& problem);
  ~prepared();
  prepared(prepared&& other) noexcept;
  prepared& operator=(prepared&&) = delete;

  explicit operator bool() const { return handle_ != nullptr; }
  void run() const { functions_->run(handle_); }
  const std::string& refusal() const { return refusal_; }

 private:
  const peer_interface* functions_;
  void* handle_ = nullptr;
  std::string refusal_;
};

}  // namespace bench
