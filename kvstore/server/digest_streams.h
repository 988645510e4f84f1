// Digests in (StreamDigests) and out (ReadDigests).
#pragma once

#include "kvstore/server/core.h"
#include "kvstore/server/send_call.h"
#include "kvstore/server/stream_call.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

using DigestReactor = grpc::ServerBidiReactor<varve::v1::DigestBatch, varve::v1::DigestAck>;
// One acknowledgement per batch, in order. A batch that is refused does not end the stream.
DigestReactor* StartDigestStream(Core& core);

// Batches of at most kMaxInlineChunkBytes of rows, layer by layer.
grpc::ServerWriteReactor<varve::v1::DigestBatch>* StartReadDigests(
    Core& core, const varve::v1::ReadDigestsRequest& request);

}  // namespace varve::server
