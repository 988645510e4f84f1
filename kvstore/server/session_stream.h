// The Session RPC: opens a session, registers regions in order, and ends the session with the
// stream.
#pragma once

#include <memory>

#include "kvstore/server/core.h"
#include "kvstore/server/stream_call.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

using SessionReactor = grpc::ServerBidiReactor<varve::v1::SessionRequest, varve::v1::SessionReply>;

SessionReactor* StartSessionStream(Core& core, const std::string& peer);

}  // namespace varve::server
