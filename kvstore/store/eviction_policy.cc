#include "kvstore/store/eviction_policy.h"

#include "kvstore/store/cost_policy.h"
#include "kvstore/store/lru_policy.h"
#include "kvstore/store/s3_fifo_policy.h"

namespace varve::store {

const base::Registry<EvictionPolicyRow>& EvictionPolicies() {
  static const base::Registry<EvictionPolicyRow> policies = [] {
    base::Registry<EvictionPolicyRow> rows("eviction policy");
    rows.Add("lru", {&MakeLruPolicy, "least recently used first"});
    rows.Add("s3fifo", {&MakeS3FifoPolicy, "used once goes first, whatever came since: S3-FIFO"});
    rows.Add("cost",
             {&MakeCostPolicy, "what is least likely to be used, by what it costs to lose"});
    return rows;
  }();
  return policies;
}

}  // namespace varve::store
