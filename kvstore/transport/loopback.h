// Transport inside one process: a transfer is a memcpy on a thread of the transport. Used by the
// embedded mode and as the reference of the contract suite.
#pragma once

#include <memory>

#include "kvstore/transport/transport.h"

namespace varve::transport {

// Address() of one loopback transport is valid in Connect() of any other of the same process.
std::unique_ptr<Transport> MakeLoopbackTransport();

}  // namespace varve::transport
