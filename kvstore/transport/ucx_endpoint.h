// Endpoint and RemoteRegion of the UCX transport.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kvstore/transport/transport.h"
#include "kvstore/transport/ucx_port.h"
#include "kvstore/transport/ucx_protocol.h"

namespace varve::transport {

// Connects over one lane of the peer. Blocks for at most `timeout`. UNAVAILABLE when the peer does
// not answer.
absl::StatusOr<std::unique_ptr<Endpoint>> ConnectUcx(std::shared_ptr<Port> port,
                                                     const UcxAddress& peer,
                                                     const std::string& worker_address,
                                                     size_t segment_bytes, absl::Duration timeout);

}  // namespace varve::transport
