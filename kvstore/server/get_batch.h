// One Get: find and pin the objects, check their bytes, write them into the client's memory, unpin,
// answer.
#pragma once

#include "kvstore/server/core.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

// REQUIRES: request and reply live until answer ran.
void StartGet(Core& core, SessionRef session, const varve::v1::GetRequest& request,
              varve::v1::GetReply* reply, absl::Time deadline, Answer answer);

// Bytes of a range of an object; INVALID_ARGUMENT naming what the layout allows.
absl::StatusOr<uint64_t> CheckRange(const store::ObjectMeta& meta, const page::ObjectRange& range);
// Calls fn(Extent) for each contiguous piece. REQUIRES: CheckRange is OK.
template <typename Fn>
void ForEachPiece(const store::ObjectMeta& meta, const page::ObjectRange& range, Fn&& fn) {
  if (range.whole()) {
    fn(page::Extent{0, meta.bytes});
  } else {
    page::ForEachExtent(meta.layout, range, fn);
  }
}
// Transfers take mutable memory on both sides; a write only reads it.
inline std::span<std::byte> Mutable(std::span<const std::byte> memory) {
  return {const_cast<std::byte*>(memory.data()), memory.size()};
}
void SetMiss(Core& core, store::MissReason reason, varve::v1::GetItemResult* result);
void SetHit(const store::GetHandle& handle, uint64_t bytes, varve::v1::GetItemResult* result);
// Once the bytes are delivered.
void CountHit(Core& core, store::TierId tier, uint64_t bytes);

}  // namespace varve::server
