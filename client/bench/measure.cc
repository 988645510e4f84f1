#include "client/bench/measure.h"

#include <cmath>

#include "client/console/stop.h"
#include "kvstore/base/status.h"

namespace varve::client {
double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double position = q * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(std::floor(position));
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (position - static_cast<double>(below)) * (values[above] - values[below]);
}

absl::StatusOr<std::map<std::string, Series>> Compete(const std::vector<Contestant>& contestants,
                                                      int rounds, double seconds_per_round) {
  std::map<std::string, Series> series;
  for (int round = -1; round < rounds; ++round) {
    for (const Contestant& contestant : contestants) {
      Series warm_up;
      Series& target = round < 0 ? warm_up : series[contestant.name];
      VARVE_RETURN_IF_ERROR(
          base::Annotate(contestant.round(seconds_per_round, target), contestant.name));
      VARVE_RETURN_IF_ERROR(console::CheckStopped());
    }
  }
  return series;
}

double Spread(const Series& series) {
  const std::vector<double>& rates = series.rate_per_round;
  const auto [low, high] = std::minmax_element(rates.begin(), rates.end());
  return rates.empty() || series.rate() <= 0 ? 0 : (*high - *low) / series.rate();
}

double MedianRatio(const Series& a, const Series& b) {
  std::vector<double> ratios;
  const size_t rounds = std::min(a.rate_per_round.size(), b.rate_per_round.size());
  for (size_t i = 0; i < rounds; ++i) {
    if (b.rate_per_round[i] > 0) ratios.push_back(a.rate_per_round[i] / b.rate_per_round[i]);
  }
  return Median(ratios);
}

absl::Status TimedLoop(double seconds, double units, Series& series,
                       const std::function<absl::Status()>& batch,
                       const std::function<absl::Status()>& between) {
  double measured = 0;
  double done = 0;
  double now = NowSeconds();
  do {
    VARVE_RETURN_IF_ERROR(console::CheckStopped());
    if (between != nullptr) {
      VARVE_RETURN_IF_ERROR(between());
      now = NowSeconds();
    }
    const double begin = now;
    VARVE_RETURN_IF_ERROR(batch());
    now = NowSeconds();
    series.batch_seconds.push_back(now - begin);
    measured += now - begin;
    done += units;
  } while (measured < seconds);
  series.rate_per_round.push_back(done / measured);
  return absl::OkStatus();
}

}  // namespace varve::client
