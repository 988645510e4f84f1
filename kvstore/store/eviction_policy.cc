#include "kvstore/store/eviction_policy.h"

#include "kvstore/store/lru_policy.h"

namespace varve::store {

const base::Registry<EvictionPolicyRow>& EvictionPolicies() {
  static const base::Registry<EvictionPolicyRow> policies = [] {
    base::Registry<EvictionPolicyRow> rows("eviction policy");
    rows.Add("lru", {&MakeLruPolicy, "least recently used first"});
    return rows;
  }();
  return policies;
}

}  // namespace varve::store
