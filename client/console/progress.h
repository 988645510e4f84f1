// A progress bar on a terminal; where there is none (a log file, CI), an occasional line instead.
// One thread at a time.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

namespace varve::console {

struct ProgressOptions {
  std::FILE* out = stderr;
  std::optional<bool> terminal;     // unset: asks the system whether `out` is one
  std::function<double()> seconds;  // clock, any origin; unset: the steady clock
};

class Progress {
 public:
  // total: units of work, 0 if unknown.
  Progress(std::string title, uint64_t total, ProgressOptions options = {});
  // Finishes, if that was not done.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` units are complete; note: what is going on, shown behind the bar. Redraws a terminal at
  // most ten times a second; writes a log line at every tenth of the work, at most one every two
  // seconds, at least one every thirty.
  void Update(uint64_t done, const std::string& note);
  // Clears the bar; a log gets a closing line. Idempotent.
  void Finish();

 private:
  std::string Bar() const;
  std::string Counts() const;
  void Draw(const std::string& note);
  bool LogIsDue(double now) const;

  const std::string title_;
  const uint64_t total_;
  std::FILE* const out_;
  const std::function<double()> seconds_;
  const bool terminal_;
  const double start_;
  double last_ = 0;          // time of the last output
  uint64_t last_tenth_ = 0;  // of the work, at the last log line
  uint64_t done_ = 0;
  bool finished_ = false;
};

// "850 ms", "12.3 s", "3 min 05 s", "2 h 14 min".
std::string HumanDuration(double seconds);

}  // namespace varve::console
