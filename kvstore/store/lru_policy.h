// Least recently used first.
#pragma once

#include <memory>

#include "kvstore/store/eviction_policy.h"

namespace varve::store {

std::unique_ptr<EvictionPolicy> MakeLruPolicy();

}  // namespace varve::store
