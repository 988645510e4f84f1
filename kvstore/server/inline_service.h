// Values inside gRPC messages, for clients without a transport: the semantics of Put and Get,
// slower.
#pragma once

#include "kvstore/server/core.h"
#include "kvstore/server/send_call.h"
#include "kvstore/server/stream_call.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

using PutInlineReactor =
    grpc::ServerBidiReactor<varve::v1::PutInlineRequest, varve::v1::PutItemResult>;
// One result per object, after its last message. A bad object does not end the stream.
PutInlineReactor* StartPutInline(Core& core);

grpc::ServerWriteReactor<varve::v1::GetInlineReply>* StartGetInline(
    Core& core, const varve::v1::GetInlineRequest& request);

}  // namespace varve::server
