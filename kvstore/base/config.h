// One configuration schema (a protobuf message), one loader.
//
// Precedence: command line > environment > config file (YAML) > default already in the message. A field's name is its
// path in the schema: `host_tier.capacity` is `--host_tier.capacity=8GiB`, `VARVE_HOST_TIER_CAPACITY=8GiB` and
//   host_tier:
//     capacity: 8GiB
// Fields whose name ends in `_bytes`, or named in the schema as uint64 sizes, take sizes ("8GiB"); fields ending in
// `_ms` take durations ("30s") and hold milliseconds. Unknown names, wrong values and wrong types are errors, all
// listed together.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"

namespace varve::base {

class ConfigLoader {
 public:
  // message holds the defaults and receives the values; it must outlive the loader. env_prefix: "VARVE_".
  ConfigLoader(google::protobuf::Message* message, std::string env_prefix);

  // Sources, to be called lowest first: file, environment, flags. INVALID_ARGUMENT lists every problem found.
  absl::Status LoadYamlFile(const std::string& path);
  absl::Status LoadYamlText(const std::string& text, const std::string& origin);
  absl::Status LoadEnvironment(const std::map<std::string, std::string>& environment);
  // args: "--path=value" or "--path value"; consumes what it knows and returns the rest. "--config=FILE" and
  // "--print-config" are left to the caller.
  absl::StatusOr<std::vector<std::string>> LoadFlags(const std::vector<std::string>& args);

  // One line per field: `path: value   # origin`, in schema order.
  std::string Print() const;
  // Every field's path, with type and default, for --help.
  std::string Describe() const;

 private:
  absl::Status Set(const std::string& path, const std::string& value, const std::string& origin);

  google::protobuf::Message* message_;
  std::string env_prefix_;
  std::map<std::string, std::string> origin_;  // by path; absent: default
};

// The process environment as a map.
std::map<std::string, std::string> Environment();

}  // namespace varve::base
