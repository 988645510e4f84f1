// The store's status as one HTML page without external parts, for people. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "kvstore/server/rates.h"
#include "prometheus/histogram.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

struct StageQuantiles {
  std::string stage;
  uint64_t count = 0;
  double p50_seconds = 0;
  double p99_seconds = 0;
};

// Quantiles by linear interpolation inside the buckets, since the start of the process.
StageQuantiles Quantiles(const std::string& stage, const prometheus::Histogram& histogram);

struct StatusPageData {
  varve::v1::StoreStatus status;
  std::vector<varve::v1::ContextInfo> contexts;  // of the namespaces with open sessions
  Totals rates;                                  // names that end in ", bytes" are sizes
  std::vector<StageQuantiles> stages;
};
std::string RenderStatusPage(const StatusPageData& data);

}  // namespace varve::server
