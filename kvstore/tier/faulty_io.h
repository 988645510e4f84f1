// A decorator over any BlockIo that makes things go wrong on purpose, by rules and a seed. For
// tests and drills.
//
// Threads: every method may be called from any thread, those of a BlockIo as there. What fails or
// is held ends on a thread of the decorator. The destructor releases what is held and waits for
// all operations.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/block_io.h"

namespace varve::tier {

// The statuses of a BlockIo for what devices do.
absl::Status InjectedDeviceError();  // EIO: DATA_LOSS
absl::Status InjectedNoSpace();      // ENOSPC: RESOURCE_EXHAUSTED
absl::Status InjectedReadOnly();     // EROFS: PERMISSION_DENIED

struct IoFault {
  enum class Kind : uint8_t {
    kFail,  // nothing moves, Done gets `status`
    kTear,  // of a write: its first torn_bytes reach the file, Done gets `status`; OK is a device
            // that lies
    kHold,  // is done at once, but its Done waits for Release
    kPowerCut,  // of a write: its first torn_bytes reach the file; then as FaultyIo::CutPower
  };

  // ---- which operations
  IoOp op = IoOp::kWrite;
  std::string path;    // of files whose path begins so; empty: of all
  uint64_t skip = 0;   // so many of them pass first,
  uint64_t times = 1;  // then so many are struck (UINT64_MAX: all),
  double chance = 1;   // each by this chance
  // ---- and what becomes of them
  Kind kind = Kind::kFail;
  absl::Status status = InjectedDeviceError();
  uint64_t torn_bytes = 0;  // with O_DIRECT a multiple of the alignment
};

class FaultyIo final : public BlockIo {
 public:
  explicit FaultyIo(std::unique_ptr<BlockIo> inner, uint64_t seed = 1);
  ~FaultyIo() override;

  // For operations that begin from now on. Of several rules that fit, the first one strikes; each
  // counts every operation that fits it.
  void Add(IoFault fault);
  // Rules are gone; what is held stays.
  void Clear();
  // Runs what is held, in its order. What the rules hold later waits for the next Release.
  void Release();
  // Waits until so many operations are held.
  void AwaitHeld(size_t operations);
  // Operations that begin from now on move nothing and end with UNAVAILABLE, for good: what the
  // file has is what the next start finds. Those under way end as they do.
  void CutPower();

  // How many operations began, and how many of those a rule struck.
  uint64_t begun(IoOp op) const;
  uint64_t struck() const;

  const char* name() const override { return inner_->name(); }
  void Read(int fd, uint64_t offset, std::span<std::byte> to, IoClass io_class, Done done) override;
  void Write(int fd, uint64_t offset, std::span<const std::byte> from, IoClass io_class,
             Done done) override;
  void Sync(int fd, Done done) override;
  void AddBuffer(std::span<std::byte> buffer) override { inner_->AddBuffer(buffer); }
  void RemoveBuffer(std::span<std::byte> buffer) override { inner_->RemoveBuffer(buffer); }
  void AddFile(int fd) override { inner_->AddFile(fd); }
  void RemoveFile(int fd) override { inner_->RemoveFile(fd); }

 private:
  struct Rule {
    IoFault fault;
    uint64_t seen = 0, struck = 0;
  };
  // The fault that strikes an operation; of a power cut what it is to this operation.
  std::optional<IoFault> Judge(IoOp op, int fd);
  std::optional<IoFault> JudgeByRules(IoOp op, int fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // done, counted until it has run.
  Done Counted(Done done);
  // done, put off until Release.
  Done Held(Done done);
  void End(Done done, absl::Status status);

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  std::vector<Rule> rules_ ABSL_GUARDED_BY(mutex_);
  std::vector<base::Task> held_ ABSL_GUARDED_BY(mutex_);
  bool power_is_cut_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t begun_[3] ABSL_GUARDED_BY(mutex_) = {};
  uint64_t struck_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  base::ThreadPool ender_{"faults", 1};
  const std::unique_ptr<BlockIo> inner_;
};

}  // namespace varve::tier
