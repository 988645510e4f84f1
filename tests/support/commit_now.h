// Commit of a store that promises no more than memory, which answers before it returns.
#pragma once

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "kvstore/store/page_store.h"

namespace varve::store {

inline absl::Status CommitNow(PutHandle& put, std::optional<uint32_t> expected_crc32c) {
  absl::Status status = absl::InternalError("Commit returned before it was done");
  put.Commit(expected_crc32c, [&](absl::Status s) { status = std::move(s); });
  return status;
}

}  // namespace varve::store
