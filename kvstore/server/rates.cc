#include "kvstore/server/rates.h"

namespace varve::server {

void Rates::Sample(absl::Time now, Totals totals) {
  base::MutexLock lock(mutex_);
  samples_.emplace_back(now, std::move(totals));
  while (samples_.front().first < now - kWindow) samples_.pop_front();
}

Totals Rates::PerSecond() const {
  base::MutexLock lock(mutex_);
  Totals rates;
  if (samples_.empty()) return rates;
  const auto& [first_time, first] = samples_.front();
  const auto& [last_time, last] = samples_.back();
  const double seconds = absl::ToDoubleSeconds(last_time - first_time);
  for (size_t i = 0; i < last.size(); ++i) {
    rates.emplace_back(last[i].first,
                       seconds > 0 ? (last[i].second - first[i].second) / seconds : 0);
  }
  return rates;
}

}  // namespace varve::server
