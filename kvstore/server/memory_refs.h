// Pieces of a client's registered memory, checked, and their mapping to pieces of local memory.
// Pure; a piece keeps its region alive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/repeated_field.h"
#include "kvstore/server/session.h"
#include "varve/v1/types.pb.h"

namespace varve::server {

struct Piece {
  RegionRef region;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Mostly one.
using Pieces = absl::InlinedVector<Piece, 1>;

// INVALID_ARGUMENT for a region that this session has not registered and for bytes outside it.
absl::StatusOr<Piece> ResolveRef(const Session& session, const varve::v1::MemoryRef& ref);
// All pieces, none empty; field names them in errors. Sets *total.
absl::StatusOr<Pieces> ResolveRefs(
    const Session& session, const google::protobuf::RepeatedPtrField<varve::v1::MemoryRef>& refs,
    const char* field, uint64_t* total);

// How all of them travel; kDirect when they do not agree.
transport::RemoteRegion::Way CommonWay(std::span<const Piece> pieces);

// Deals remote pieces out to local memory, in order.
class PieceCursor {
 public:
  // pieces must outlive the cursor and the segments made.
  explicit PieceCursor(std::span<const Piece> pieces) : pieces_(pieces) {}
  // Appends the segments that pair `local` with the next local.size() remote bytes. REQUIRES: as
  // many are left.
  void Map(std::span<std::byte> local, transport::Copier* copier,
           std::vector<transport::Segment>& segments);

 private:
  std::span<const Piece> pieces_;
  size_t index_ = 0;
  uint64_t used_ = 0;  // of pieces_[index_]
};

}  // namespace varve::server
