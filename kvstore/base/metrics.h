// Prometheus metrics of one process. Every family and every label set is declared up front, so each
// series exists with value 0 from the start and a label outside its closed set cannot appear.
//
// Thread-safe once built. Handles are owned by the Metrics object and stay valid as long as it.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace varve::base {

using Labels = std::map<std::string, std::string>;

class Metrics {
 public:
  Metrics();

  // Each call declares (once per name and labels) and returns the series.
  prometheus::Counter& Counter(const std::string& name, const std::string& help,
                               const Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help,
                           const Labels& labels = {});
  // bounds: upper bucket bounds in seconds (or the metric's unit), ascending.
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const Labels& labels, const std::vector<double>& bounds);

  // Called before every scrape, to set gauges from live state. Must be quick.
  void OnScrape(std::function<void()> callback);
  // The text exposition format.
  std::string Render() const;

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::vector<std::function<void()>> on_scrape_;
};

// 10 us .. 10 s, about 4 buckets a decade.
const std::vector<double>& LatencyBuckets();
// 0.5 .. 1, finer towards 1.
const std::vector<double>& RatioBuckets();

}  // namespace varve::base
