// Calls that wait for the end of long work, one or more for each.
#pragma once

#include <cstddef>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvstore/base/mutex.h"
#include "kvstore/server/core.h"

namespace varve::server {

// Answers that wait for long work, by its name. Thread-safe.
class WaitingAnswers {
 public:
  // Whether the work has to be begun: it is not under way, not too much else is, and the store does
  // not end. RESOURCE_EXHAUSTED names what is under way.
  bool Add(const std::string& work, Answer answer,
           size_t most = std::numeric_limits<size_t>::max()) {
    absl::Status refusal = Ending();
    {
      base::MutexLock lock(mutex_);
      if (!closed_ && (waiting_.contains(work) || waiting_.size() < most)) {
        std::vector<Answer>& answers = waiting_[work];
        answers.push_back(std::move(answer));
        return answers.size() == 1;
      }
      if (!closed_) refusal = TooMany();
    }
    std::move(answer)(std::move(refusal));
    return false;
  }
  void Give(const std::string& work, const absl::Status& status) {
    std::vector<Answer> answers;
    {
      base::MutexLock lock(mutex_);
      const auto found = waiting_.find(work);
      if (found == waiting_.end()) return;
      answers = std::move(found->second);
      waiting_.erase(found);
    }
    for (Answer& answer : answers) std::move(answer)(status);
  }
  void Close() {
    std::map<std::string, std::vector<Answer>> all;
    {
      base::MutexLock lock(mutex_);
      closed_ = true;
      all.swap(waiting_);
    }
    for (auto& [work, answers] : all) {
      for (Answer& answer : answers) std::move(answer)(Ending());
    }
  }

 private:
  absl::Status TooMany() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto name = [](std::string* out, const auto& work) { out->append(work.first); };
    return absl::ResourceExhaustedError(absl::StrCat(
        "no more at a time: under way are ", absl::StrJoin(waiting_, ", ", name), "; try again"));
  }
  static absl::Status Ending() { return absl::UnavailableError("the store is ending"); }

  base::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::vector<Answer>> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::server
