// The path of a Unix socket that a server listens on: taken from nobody, left to nobody.
//
// gRPC replaces whatever is at the path it binds and unlinks that path at its end, even when
// another process listens there by then. So the server binds a path beside it, which is then
// renamed.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::base {

class UnixSocket {
 public:
  // Removes the socket of a dead server. UNAVAILABLE when something answers there or it cannot be
  // reached, FAILED_PRECONDITION when the path is no socket.
  static absl::StatusOr<std::unique_ptr<UnixSocket>> Claim(const std::string& path);
  // Unlinks the path if the socket there is still this one.
  ~UnixSocket();
  UnixSocket(const UnixSocket&) = delete;
  UnixSocket& operator=(const UnixSocket&) = delete;

  // Where to bind.
  const std::string& bind_path() const { return bind_path_; }
  // Moves the bound socket to its path, with this mode if one is given.
  absl::Status Publish(std::optional<mode_t> mode = std::nullopt);

 private:
  explicit UnixSocket(const std::string& path);

  const std::string path_;
  const std::string bind_path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;  // 0: not published
};

}  // namespace varve::base
