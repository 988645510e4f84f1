// A directory of its own, removed with all that is in it when its owner goes.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace varve::client {

class Folder {
 public:
  // parent exists, maybe relative; path() is absolute. Errors are those of mkdtemp.
  static absl::StatusOr<std::unique_ptr<Folder>> Make(const std::string& parent);
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }

 private:
  explicit Folder(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

}  // namespace varve::client
