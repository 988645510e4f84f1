// Least recently used first.
#pragma once

#include <memory>

#include "kvstore/store/eviction_policy.h"

namespace varve::store {

std::unique_ptr<EvictionPolicy> MakeLruPolicy(uint64_t capacity_bytes);

}  // namespace varve::store
