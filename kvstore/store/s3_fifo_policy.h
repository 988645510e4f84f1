// S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): a small
// queue that what is used once passes through quickly, a main queue, and the names of what left the
// small one.
//
// The small queue gets half of the bytes where the paper has a tenth, and one use is enough to
// leave it for the main one where the paper asks for two: the next turn of a conversation comes
// minutes after the last, once. docs/performance.md has what that brings on a trace. Half of what
// is in the policy now, not of a fixed capacity: guarded objects are in no policy, and a tier may
// be resized.
#pragma once

#include <memory>

#include "kvstore/store/eviction_policy.h"

namespace varve::store {

std::unique_ptr<EvictionPolicy> MakeS3FifoPolicy();

}  // namespace varve::store
