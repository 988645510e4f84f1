// What the files of the C interface share: handles, the error text of a thread, structs of any age.
//
// Nothing may leave a varve_ function as an exception: each runs its body in Guarded.
#pragma once

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "client/varve.h"

struct varve_client {
  std::unique_ptr<varve::client::Client> client;
  std::string lane;
};
struct varve_memory {
  std::unique_ptr<varve::client::Memory> memory;
};

namespace varve::client {

void SetLastError(std::string text);

// Runs body() -> absl::Status; sets the thread's error text when it is not OK.
template <typename Body>
varve_status Guarded(const Body& body) {
  absl::Status status;
  try {
    SetLastError("");
    status = body();
  } catch (const std::bad_alloc&) {
    return VARVE_RESOURCE_EXHAUSTED;
  } catch (const std::exception& e) {
    status = absl::InternalError(e.what());
  }
  if (!status.ok()) SetLastError(std::string(status.message()));
  return static_cast<varve_status>(status.raw_code());
}

inline absl::Status NullError(const char* name) {
  return absl::InvalidArgumentError(absl::StrCat(name, " must not be null"));
}

// The caller's struct as this library knows it: fields the caller does not have are zero.
template <typename Struct>
absl::StatusOr<Struct> Adopt(const Struct* given, size_t struct_size, const char* name) {
  if (struct_size < sizeof(size_t) || struct_size > 16 * sizeof(Struct)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ".struct_size is ", struct_size, "; set it to sizeof(", name, ")"));
  }
  Struct own{};
  std::memcpy(static_cast<void*>(&own), static_cast<const void*>(given),
              std::min(struct_size, sizeof(Struct)));
  return own;
}

// Element i of an array whose stride is its first element's struct_size.
template <typename Struct>
absl::StatusOr<Struct> AdoptAt(const Struct* array, size_t i, const char* name) {
  const size_t stride = array->struct_size;
  return Adopt(reinterpret_cast<const Struct*>(reinterpret_cast<const char*>(array) + i * stride),
               stride, name);
}

// Writes `own` into the caller's element i, as much of it as the caller knows.
template <typename Struct>
void StoreAt(Struct own, Struct* array, size_t i) {
  const size_t stride = array->struct_size;
  own.struct_size = stride;
  std::memcpy(reinterpret_cast<char*>(array) + i * stride, static_cast<const void*>(&own),
              std::min(stride, sizeof(Struct)));
}

absl::StatusOr<page::ObjectKey> ToKey(const varve_key& key);
absl::StatusOr<std::vector<page::ObjectKey>> ToKeys(const varve_key* keys, size_t count);
absl::StatusOr<std::vector<Piece>> ToPieces(const varve_piece* pieces, size_t count,
                                            const char* name);
absl::StatusOr<page::Part> ToPart(varve_part part);

}  // namespace varve::client
