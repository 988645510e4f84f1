// RecallStream: recalls on one long-lived stream, many in work.
#pragma once

#include <grpcpp/grpcpp.h>

#include "kvstore/server/core.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

using RecallReactor = grpc::ServerBidiReactor<varve::v1::RecallRequest, varve::v1::RecallReply>;

// Replies as they finish, with by_layer one for each layer; the error of a request is in its reply
// (error, error_code) and the stream goes on.
RecallReactor* StartRecallStream(Core& core);

}  // namespace varve::server
