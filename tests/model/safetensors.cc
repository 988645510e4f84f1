#include "tests/model/safetensors.h"

#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/console/file_io.h"
#include "kvstore/base/status.h"

namespace varve::model {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensor data is read without swapping");

constexpr uint64_t kMaxElements = uint64_t{1} << 32;

// The list of unsigned integers under `field`, or an error that says what was there.
absl::StatusOr<std::vector<uint64_t>> UnsignedList(const Json& entry, const char* field) {
  const auto it = entry.find(field);
  if (it == entry.end() || !it->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", field, "\" must be a list"));
  }
  std::vector<uint64_t> values;
  for (const Json& value : *it) {
    if (!value.is_number_unsigned()) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", field, "\" must hold unsigned integers, found ", value.dump()));
    }
    values.push_back(value.get<uint64_t>());
  }
  return values;
}

absl::StatusOr<Tensor> ReadTensor(const Json& entry, std::string_view data) {
  if (!entry.is_object()) return absl::InvalidArgumentError("its header entry is not an object");
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || *dtype != "F32") {
    return absl::InvalidArgumentError(absl::StrCat(
        "dtype ", dtype == entry.end() ? "missing" : dtype->dump(), ", only \"F32\" is supported"));
  }
  Tensor tensor;
  VARVE_ASSIGN_OR_RETURN(tensor.shape, UnsignedList(entry, "shape"));
  VARVE_ASSIGN_OR_RETURN(const std::vector<uint64_t> range, UnsignedList(entry, "data_offsets"));
  if (range.size() != 2 || range[0] > range[1] || range[1] > data.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"data_offsets\" must be [begin, end) within the ", data.size(), " data bytes"));
  }
  uint64_t elements = 1;
  for (const uint64_t dim : tensor.shape) {
    if (dim != 0 && elements > kMaxElements / dim) {
      return absl::InvalidArgumentError("\"shape\" has more than 2^32 elements");
    }
    elements *= dim;
  }
  const uint64_t bytes = range[1] - range[0];
  if (bytes != elements * sizeof(float)) {
    return absl::InvalidArgumentError(absl::StrCat("shape needs ", elements * sizeof(float),
                                                   " bytes, \"data_offsets\" give ", bytes));
  }
  tensor.data.resize(elements);
  if (bytes != 0) std::memcpy(tensor.data.data(), data.data() + range[0], bytes);
  return tensor;
}

}  // namespace

absl::StatusOr<std::map<std::string, Tensor>> ReadSafetensors(const std::string& path) {
  VARVE_ASSIGN_OR_RETURN(const std::string file, console::ReadFile(path));
  uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", file.size(), " bytes, too short for a safetensors header"));
  }
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  if (header_bytes > file.size() - sizeof(header_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": header length ", header_bytes,
                                                   " exceeds the file's ", file.size(), " bytes"));
  }
  const std::string_view content(file);
  const std::string_view header_text = content.substr(sizeof(header_bytes), header_bytes);
  const Json header = Json::parse(header_text, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": header is not a JSON object"));
  }
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    absl::StatusOr<Tensor> tensor =
        ReadTensor(entry, content.substr(sizeof(header_bytes) + header_bytes));
    if (!tensor.ok()) {
      return base::Annotate(tensor.status(), path + ": tensor " + name);
    }
    tensors.emplace(name, *std::move(tensor));
  }
  return tensors;
}

}  // namespace varve::model
