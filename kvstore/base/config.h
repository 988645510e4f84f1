// One configuration schema (a protobuf message), one loader.
//
// Precedence: command line > environment > config file (YAML) > default already in the message. A
// field's name is its path in the schema: `host_tier.capacity_bytes` is
// `--host_tier.capacity_bytes=8GiB`, `VARVE_HOST_TIER_CAPACITY_BYTES=8GiB` and
//   host_tier:
//     capacity_bytes: 8GiB
// Fields whose name ends in `_bytes` take sizes ("8GiB"); fields ending in `_ms` take durations
// ("30s") and hold whole milliseconds. Lists are written `a,b`, or as a YAML list. Unknown names,
// wrong values and wrong types are errors, all listed together; an unknown name is answered with
// the nearest known one. Environment variables that Kubernetes makes up for services of such a name
// (VARVE_STORE_SERVICE_HOST, VARVE_STORE_PORT_7411_TCP ...) are not settings and are passed over.
// One thread at a time.
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
  // message holds the defaults and receives the values; it must outlive the loader. env_prefix:
  // "VARVE_".
  ConfigLoader(google::protobuf::Message* message, std::string env_prefix);

  // Sources, to be called lowest first: file, environment, flags. INVALID_ARGUMENT lists every
  // problem found; a name that is twice in a file or on the command line is one, and so is a file
  // that is empty, no text, or cannot be read.
  absl::Status LoadYamlFile(const std::string& path);
  absl::Status LoadYamlText(const std::string& text, const std::string& origin);
  absl::Status LoadEnvironment(const std::map<std::string, std::string>& environment);
  // args: "--path=value" or "--path value"; consumes what it knows and returns the rest, in order.
  // When it refuses something, the rest is listed as unknown too.
  absl::StatusOr<std::vector<std::string>> LoadFlags(const std::vector<std::string>& args);

  // " (did you mean '--x'?)" or what is in that group, for an argument that LoadFlags gave back;
  // or nothing.
  std::string Nearest(const std::string& arg) const;

  // One line per field: `path: value   # origin`, in schema order. Values are exact and parse
  // again.
  std::string Print() const;
  // Every field's path, with type, default and the schema's option `help`, for --help.
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
