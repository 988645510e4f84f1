#include "kvstore/tier/faulty_io.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace varve::tier {
namespace {

using Kind = IoFault::Kind;

bool IsUnder(int fd, const std::string& path) {
  if (path.empty()) return true;
  std::error_code error;
  const std::string file =
      std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", fd), error).string();
  return !error && file.starts_with(path);
}

absl::Status PowerIsCut() { return absl::UnavailableError("injected: the power is cut"); }

}  // namespace

absl::Status InjectedDeviceError() { return absl::DataLossError("injected: Input/output error"); }
absl::Status InjectedNoSpace() {
  return absl::ResourceExhaustedError("injected: No space left on device");
}
absl::Status InjectedReadOnly() {
  return absl::PermissionDeniedError("injected: Read-only file system");
}

FaultyIo::FaultyIo(std::unique_ptr<BlockIo> inner, uint64_t seed)
    : random_(seed), inner_(std::move(inner)) {}

FaultyIo::~FaultyIo() {
  {
    base::MutexLock lock(mutex_);
    closing_ = true;
  }
  Release();
  base::MutexLock lock(mutex_);
  while (under_way_ > 0) changed_.Wait(mutex_);
}

void FaultyIo::Add(IoFault fault) {
  base::MutexLock lock(mutex_);
  rules_.push_back({std::move(fault)});
}

void FaultyIo::Clear() {
  base::MutexLock lock(mutex_);
  rules_.clear();
}

void FaultyIo::Release() {
  base::MutexLock lock(mutex_);
  for (base::Task& task : std::exchange(held_, {})) ender_.Run(std::move(task));
}

void FaultyIo::AwaitHeld(size_t operations) {
  base::MutexLock lock(mutex_);
  while (held_.size() < operations) changed_.Wait(mutex_);
}

void FaultyIo::CutPower() {
  base::MutexLock lock(mutex_);
  power_is_cut_ = true;
}

uint64_t FaultyIo::begun(IoOp op) const {
  base::MutexLock lock(mutex_);
  return begun_[static_cast<size_t>(op)];
}

uint64_t FaultyIo::struck() const {
  base::MutexLock lock(mutex_);
  return struck_;
}

void FaultyIo::Read(int fd, uint64_t offset, std::span<std::byte> to, IoClass io_class, Done done) {
  done = Counted(std::move(done));
  std::optional<IoFault> fault = Judge(IoOp::kRead, fd);
  if (fault && fault->kind != Kind::kHold) return End(std::move(done), std::move(fault->status));
  if (fault) done = Held(std::move(done));
  inner_->Read(fd, offset, to, io_class, std::move(done));
}

void FaultyIo::Write(int fd, uint64_t offset, std::span<const std::byte> from, IoClass io_class,
                     Done done) {
  done = Counted(std::move(done));
  std::optional<IoFault> fault = Judge(IoOp::kWrite, fd);
  if (!fault) return inner_->Write(fd, offset, from, io_class, std::move(done));
  if (fault->kind == Kind::kHold) {
    return inner_->Write(fd, offset, from, io_class, Held(std::move(done)));
  }
  const size_t torn = fault->kind == Kind::kTear ? fault->torn_bytes : 0;
  if (torn == 0) return End(std::move(done), std::move(fault->status));
  inner_->Write(
      fd, offset, from.first(std::min(torn, from.size())), io_class,
      [status = std::move(fault->status), done = std::move(done)](absl::Status written) mutable {
        std::move(done)(written.ok() ? std::move(status) : std::move(written));
      });
}

void FaultyIo::Sync(int fd, Done done) {
  done = Counted(std::move(done));
  std::optional<IoFault> fault = Judge(IoOp::kSync, fd);
  if (fault && fault->kind != Kind::kHold) return End(std::move(done), std::move(fault->status));
  if (fault) done = Held(std::move(done));
  inner_->Sync(fd, std::move(done));
}

std::optional<IoFault> FaultyIo::Judge(IoOp op, int fd) {
  base::MutexLock lock(mutex_);
  ++begun_[static_cast<size_t>(op)];
  if (power_is_cut_) return IoFault{.status = PowerIsCut()};
  std::optional<IoFault> fault = JudgeByRules(op, fd);
  if (!fault) return fault;
  ++struck_;
  if (fault->kind == Kind::kPowerCut) {
    power_is_cut_ = true;
    fault->kind = Kind::kTear;
    fault->status = PowerIsCut();
  }
  return fault;
}

std::optional<IoFault> FaultyIo::JudgeByRules(IoOp op, int fd) {
  std::optional<IoFault> first;
  for (Rule& rule : rules_) {
    const IoFault& fault = rule.fault;
    if (fault.op != op || !IsUnder(fd, fault.path)) continue;
    if (rule.seen++ < fault.skip || rule.struck == fault.times || first) continue;
    if (std::uniform_real_distribution<double>(0, 1)(random_) >= fault.chance) continue;
    ++rule.struck;
    first = fault;
  }
  return first;
}

BlockIo::Done FaultyIo::Counted(Done done) {
  base::MutexLock lock(mutex_);
  ++under_way_;
  return [this, done = std::move(done)](absl::Status status) mutable {
    std::move(done)(std::move(status));
    base::MutexLock lock(mutex_);
    if (--under_way_ == 0) changed_.NotifyAll();
  };
}

void FaultyIo::End(Done done, absl::Status status) {
  ender_.Run([done = std::move(done), status = std::move(status)]() mutable {
    std::move(done)(std::move(status));
  });
}

BlockIo::Done FaultyIo::Held(Done done) {
  return [this, done = std::move(done)](absl::Status status) mutable {
    base::Task task = [done = std::move(done), status = std::move(status)]() mutable {
      std::move(done)(std::move(status));
    };
    base::MutexLock lock(mutex_);
    if (closing_) return ender_.Run(std::move(task));
    held_.push_back(std::move(task));
    changed_.NotifyAll();
  };
}

}  // namespace varve::tier
