#include "kvstore/base/metrics.h"

#include <utility>

#include "prometheus/text_serializer.h"

namespace varve::base {

Metrics::Metrics()
    : registry_(
          std::make_shared<prometheus::Registry>(prometheus::Registry::InsertBehavior::Merge)) {}

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help,
                                      const Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add(labels);
}

prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help,
                                  const Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add(labels);
}

prometheus::Histogram& Metrics::Histogram(const std::string& name, const std::string& help,
                                          const Labels& labels, const std::vector<double>& bounds) {
  return prometheus::BuildHistogram()
      .Name(name)
      .Help(help)
      .Register(*registry_)
      .Add(labels, bounds);
}

void Metrics::OnScrape(std::function<void()> callback) {
  on_scrape_.push_back(std::move(callback));
}

std::string Metrics::Render() const {
  for (const auto& callback : on_scrape_) callback();
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

const std::vector<double>& LatencyBuckets() {
  static const std::vector<double> bounds = {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3,
                                             2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1,
                                             5e-1, 1,    2,    5,    10};
  return bounds;
}

const std::vector<double>& RatioBuckets() {
  static const std::vector<double> bounds = {0.5,  0.6,  0.7,  0.8,   0.85,  0.9, 0.95,
                                             0.97, 0.98, 0.99, 0.995, 0.999, 1};
  return bounds;
}

}  // namespace varve::base
