#include "client/bench/folder.h"

#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace varve::client {

absl::StatusOr<std::unique_ptr<Folder>> Folder::Make(const std::string& parent) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(parent, error);
  if (error) return absl::ErrnoToStatus(error.value(), parent);
  std::string pattern = absolute.lexically_normal() / "varve-bench-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) return absl::ErrnoToStatus(errno, pattern);
  return std::unique_ptr<Folder>(new Folder(std::move(pattern)));
}

Folder::~Folder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

}  // namespace varve::client
