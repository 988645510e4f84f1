#include "client/bench/folder.h"

#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace varve::client {

absl::StatusOr<std::unique_ptr<Folder>> Folder::Make(const std::string& parent) {
  std::string pattern = parent + "/varve-bench-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) return absl::ErrnoToStatus(errno, pattern);
  return std::unique_ptr<Folder>(new Folder(std::move(pattern)));
}

Folder::~Folder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

}  // namespace varve::client
