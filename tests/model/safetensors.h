// Reader of the safetensors file format (u64 header length, JSON header, raw data), fp32 tensors
// only.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace varve::model {

struct Tensor {
  std::vector<uint64_t> shape;
  std::vector<float> data;  // row-major
};

// All tensors of the file by name; "__metadata__" is skipped. INVALID_ARGUMENT names the tensor and
// what is wrong with it (dtype other than F32, a shape that does not match its bytes, a range
// outside the file) or the broken header.
absl::StatusOr<std::map<std::string, Tensor>> ReadSafetensors(const std::string& path);

}  // namespace varve::model
