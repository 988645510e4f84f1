// Repeated measurement: latencies, medians, spread, and ratios taken inside one run.
//
// Machines drift, so everything that is compared is measured in turns (a round of each), and a
// ratio is the median of the rounds' ratios.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::client {

inline double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Linear interpolation between order statistics; 0 when empty. q in 0..1.
double Quantile(std::vector<double> values, double q);
inline double Median(const std::vector<double>& values) { return Quantile(values, 0.5); }

// One contestant's rounds: bytes (or operations) per second of each, and the latency of each batch.
struct Series {
  std::vector<double> rate_per_round;
  std::vector<double> batch_seconds;

  double rate() const { return Median(rate_per_round); }
};

// A round measures for about `seconds` and adds to the series.
struct Contestant {
  std::string name;
  std::function<absl::Status(double seconds, Series& series)> round;
};

// Runs `rounds` rounds of every contestant in turn, after one warm-up round that is not kept.
// CANCELLED by a signal.
absl::StatusOr<std::map<std::string, Series>> Compete(const std::vector<Contestant>& contestants,
                                                      int rounds, double seconds_per_round);

// (max - min) / median of the rounds' rates.
double Spread(const Series& series);
// Median over rounds of a's rate / b's rate in the same round.
double MedianRatio(const Series& a, const Series& b);

// Runs batch() until the time is over; each call moves `units` (bytes or operations). between()
// comes before each batch and is not measured. CANCELLED by a signal.
absl::Status TimedLoop(double seconds, double units, Series& series,
                       const std::function<absl::Status()>& batch,
                       const std::function<absl::Status()>& between = nullptr);

}  // namespace varve::client
