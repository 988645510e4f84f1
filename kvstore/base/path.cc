#include "kvstore/base/path.h"

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace varve::base {

std::string PlainPath(std::string_view path) {
  const auto says_something = [](absl::string_view part) { return !part.empty() && part != "."; };
  const absl::string_view whole(path.data(), path.size());
  const std::string parts = absl::StrJoin(absl::StrSplit(whole, '/', says_something), "/");
  return path.starts_with('/') ? "/" + parts : parts;
}

}  // namespace varve::base
