#include "client/console/progress.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace varve::console {
namespace {

constexpr int kBarCells = 30;
constexpr double kRedrawSeconds = 0.1;
constexpr double kMinLogSeconds = 2;
constexpr double kMaxLogSeconds = 30;
// Return to the line's start and clear it.
constexpr char kClearLine[] = "\r\033[K";

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string HumanDuration(double seconds) {
  if (seconds < 1) return absl::StrFormat("%.0f ms", seconds * 1e3);
  if (seconds < 60) return absl::StrFormat("%.1f s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d min", whole / 3600, whole % 3600 / 60);
}

Progress::Progress(std::string title, uint64_t total, ProgressOptions options)
    : title_(std::move(title)),
      total_(total),
      out_(options.out),
      seconds_(options.seconds ? std::move(options.seconds) : SteadySeconds),
      terminal_(options.terminal.value_or(isatty(fileno(options.out)) == 1)),
      start_(seconds_()),
      last_(terminal_ ? start_ - kMaxLogSeconds : start_) {}

Progress::~Progress() { Finish(); }

std::string Progress::Bar() const {
  const auto filled = static_cast<size_t>(std::min(done_, total_) * kBarCells / total_);
  return absl::StrCat("[", std::string(filled, '#'), std::string(kBarCells - filled, '.'), "]");
}

// Done of total, and the time that the rest will take at the pace so far.
std::string Progress::Counts() const {
  if (total_ == 0) return absl::StrCat(done_);
  std::string text = absl::StrFormat("%3d %% %d/%d", done_ * 100 / total_, done_, total_);
  if (done_ > 0 && done_ < total_) {
    const double elapsed = seconds_() - start_;
    const double left = elapsed * static_cast<double>(total_ - done_) / static_cast<double>(done_);
    absl::StrAppend(&text, ", ", HumanDuration(left), " left");
  }
  return text;
}

void Progress::Draw(const std::string& note) {
  const std::string bar = terminal_ && total_ != 0 ? Bar() + " " : "";
  const std::string line = absl::StrCat(title_, " ", bar, Counts(), note.empty() ? "" : "  ", note);
  std::fputs(terminal_ ? absl::StrCat(kClearLine, line).c_str() : absl::StrCat(line, "\n").c_str(),
             out_);
  std::fflush(out_);
}

bool Progress::LogIsDue(double now) const {
  if (now - last_ >= kMaxLogSeconds) return true;
  return total_ != 0 && done_ * 10 / total_ > last_tenth_ && now - last_ >= kMinLogSeconds;
}

void Progress::Update(uint64_t done, const std::string& note) {
  if (finished_) return;
  done_ = done;
  const double now = seconds_();
  if (terminal_ ? now - last_ < kRedrawSeconds : !LogIsDue(now)) return;
  Draw(note);
  last_ = now;
  if (total_ != 0) last_tenth_ = done_ * 10 / total_;
}

void Progress::Finish() {
  if (std::exchange(finished_, true)) return;
  if (terminal_) {
    std::fputs(kClearLine, out_);
  } else {
    std::fputs(absl::StrCat(title_, " ", Counts(), " in ", HumanDuration(seconds_() - start_), "\n")
                   .c_str(),
               out_);
  }
  std::fflush(out_);
}

}  // namespace varve::console
