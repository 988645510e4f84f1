#include "kvstore/server/memory_refs.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/server/config.h"

namespace varve::server {

using absl::InvalidArgumentError;
using absl::StrCat;

absl::StatusOr<Piece> ResolveRef(const Session& session, const varve::v1::MemoryRef& ref) {
  RegionRef region = session.FindRegion(ref.region_id());
  if (region == nullptr) {
    return InvalidArgumentError(StrCat("region_id ", ref.region_id(),
                                       " is not registered in this session, which has ",
                                       session.num_regions(), " regions"));
  }
  const uint64_t size = region->bytes();
  if (ref.bytes() == 0) return InvalidArgumentError("a piece of 0 bytes; allowed: at least 1");
  if (ref.offset() > size || ref.bytes() > size - ref.offset()) {
    return InvalidArgumentError(StrCat(ref.bytes(), " bytes at offset ", ref.offset(),
                                       " leave region ", ref.region_id(), " of ", size, " bytes"));
  }
  return Piece{std::move(region), ref.offset(), ref.bytes()};
}

absl::StatusOr<Pieces> ResolveRefs(
    const Session& session, const google::protobuf::RepeatedPtrField<varve::v1::MemoryRef>& refs,
    const char* field, uint64_t* total) {
  if (session.endpoint() == nullptr) {
    return InvalidArgumentError(
        StrCat(field, ": an inline session has no registered memory; use PutInline and GetInline"));
  }
  if (refs.empty() || refs.size() > static_cast<int>(kMaxPiecesPerItem)) {
    return InvalidArgumentError(
        StrCat(refs.size(), " ", field, "; allowed: 1 to ", kMaxPiecesPerItem));
  }
  Pieces pieces;
  pieces.reserve(refs.size());
  uint64_t sum = 0;
  for (int i = 0; i < refs.size(); ++i) {
    absl::StatusOr<Piece> piece = ResolveRef(session, refs[i]);
    if (!piece.ok()) {
      return base::Annotate(piece.status(), std::string(field) + "[" + std::to_string(i) + "]");
    }
    // No overflow: at most kMaxPiecesPerItem pieces of memory that exists.
    sum += piece->bytes;
    pieces.push_back(*std::move(piece));
  }
  *total = sum;
  return pieces;
}

transport::RemoteRegion::Way CommonWay(std::span<const Piece> pieces) {
  const transport::RemoteRegion::Way first = pieces.front().region->way();
  const bool agree = std::all_of(pieces.begin(), pieces.end(), [first](const Piece& piece) {
    return piece.region->way() == first;
  });
  return agree ? first : transport::RemoteRegion::Way::kDirect;
}

void PieceCursor::Map(std::span<std::byte> local, transport::Copier* copier,
                      std::vector<transport::Segment>& segments) {
  while (!local.empty()) {
    const Piece& piece = pieces_[index_];
    const size_t n = std::min<uint64_t>(local.size(), piece.bytes - used_);
    segments.push_back({local.first(n), piece.region.get(), piece.offset + used_, copier});
    local = local.subspan(n);
    used_ += n;
    if (used_ == piece.bytes) {
      ++index_;
      used_ = 0;
    }
  }
}

}  // namespace varve::server
