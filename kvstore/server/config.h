// Settings of varve-store: defaults, limits and the checks that a single field's type cannot
// express.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/tier/segment_log.h"
#include "varve/v1/config.pb.h"

namespace varve::server {

// Fixed by the protocol.
constexpr uint64_t kMaxInlineChunkBytes = 1 << 20;
constexpr size_t kMaxClientNameBytes = 128;
constexpr size_t kMaxNamespaceBytes = 512;
constexpr uint32_t kMaxListPage = 10000;
constexpr uint32_t kDefaultListPage = 1000;
constexpr uint32_t kMaxPiecesPerItem = 4096;
constexpr absl::Duration kMaxTransferDeadline = absl::Minutes(10);
// Of one gRPC message in either direction.
constexpr int kMaxMessageBytes = 64 << 20;

// INVALID_ARGUMENT lists every problem, one per line, each naming the field and what is allowed.
absl::Status ValidateStoreConfig(const varve::v1::StoreConfig& config);

// The directories of nvme_tier, each PATH=SIZE. INVALID_ARGUMENT for text of another form.
absl::StatusOr<tier::LogDirectory> ParseDirectory(const std::string& text);

}  // namespace varve::server
