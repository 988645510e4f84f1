// Between the client's types and the wire's (proto/varve/v1). Pure functions; unknown enum values
// of a newer store map to kNone, kFailed or kInvalid, never to a success.
#pragma once

#include "client/client.h"
#include "kvstore/base/grpc_status.h"
#include "varve/v1/store.pb.h"

namespace varve::client {

namespace v1 = ::varve::v1;

using base::FromGrpc;

v1::Geometry ToProto(const page::Geometry& geometry);
page::Geometry FromProto(const v1::Geometry& g);  // as it comes: unchecked
v1::ObjectLayout ToProto(const page::ObjectLayout& layout);
v1::ObjectRange ToProto(const page::ObjectRange& range);
v1::DigestKind ToProto(page::DigestKind kind);
v1::ScoreMerge ToProto(page::ScoreMerge merge);
v1::Tier ToProto(Tier tier);
v1::HotPages ToProto(const HotPages& hot);
// Infinite: 0. Others are taken to the nearest that the wire can say.
uint32_t TtlMilliseconds(absl::Duration ttl);

PutResult FromProto(const v1::PutItemResult& result);
GetResult FromProto(const v1::GetItemResult& result);
PrefetchOutcome FromProto(v1::PrefetchResult result);
ObjectInfo FromProto(const v1::ObjectInfo& info);
ContextInfo FromProto(const v1::ContextInfo& info);
RecallResult FromProto(const v1::RecallReply& reply);
StoreStatus FromProto(const v1::StoreStatus& status);

}  // namespace varve::client
