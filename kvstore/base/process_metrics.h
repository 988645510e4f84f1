// process_* families of this process: memory, descriptors, threads, time.
#pragma once

#include "kvstore/base/metrics.h"

namespace varve::base {

// Set anew before every scrape of these metrics; scrapes may overlap.
void DeclareProcessMetrics(Metrics& metrics);

}  // namespace varve::base
