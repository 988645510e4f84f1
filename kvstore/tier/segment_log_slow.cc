// Directories whose disks keep a log waiting.
#include <utility>

#include "absl/time/time.h"
#include "kvstore/base/log.h"
#include "kvstore/tier/segment_log_impl.h"

namespace varve::tier {

void SegmentLog::Tick() {
  std::vector<Directory*> slow;
  bool answers = false;
  {
    base::MutexLock lock(state_.mutex);
    for (const auto& directory : directories_) {
      // Without it nothing may be sent there that could find out.
      state_.space.TryToGrow(*directory, absl::Now());
      const absl::Duration age = directory->io.OldestAge();
      const bool is_slow = age >= options_.slow_after;
      if (is_slow && state_.space.TakesWrites(*directory)) slow.push_back(directory.get());
      if (std::exchange(directory->slow, is_slow) == is_slow) continue;
      if (is_slow) {
        base::LogWarning(directory->path, " is slow: an operation has been with its disk for ",
                         absl::FormatDuration(age), "; what is written goes to others meanwhile");
      } else {
        base::LogInfo(directory->path, " answers again");
        answers = true;
      }
    }
    if (answers) ++operations_;
  }
  for (Directory* directory : slow) Relieve(*directory);
  if (!answers) return;
  executor_->Run([this] {
    WriteSetsBehind();
    Complete([](const absl::Status&) {}, absl::OkStatus());
  });
}

void SegmentLog::Relieve(Directory& slow) {
  std::vector<WritePtr> writes = slow.appends->TakeQueued();
  const size_t appends = writes.size();
  for (WritePtr& write : slow.moves->TakeQueued()) writes.push_back(std::move(write));
  for (size_t i = 0; i < writes.size(); ++i) {
    const WritePtr& write = writes[i];
    SegmentWriter* writer = i < appends ? slow.appends.get() : slow.moves.get();
    {
      base::MutexLock lock(state_.mutex);
      std::vector<const Directory*> refused = write->refused;
      refused.push_back(&slow);
      const bool value = write->kind == RecordKind::kValue;
      const absl::StatusOr<Directory*> to =
          value ? Choose(write->total_bytes, refused) : ChooseForTombstones(refused);
      if (to.ok() && !(*to)->slow) {
        Dequeue(*write);
        write->directory = *to;
        write->among_appends = false;
        if (value) Enqueue(*write, **to);
        writer = value ? (*to)->appends.get() : (*to)->moves.get();
      }
    }
    writer->Add(write);
  }
}

}  // namespace varve::tier
