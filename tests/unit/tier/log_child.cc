// A process with a log of its own, for tests that kill it or give it a small disk.
//   append FOLDER SEED   appends and erases until it is killed
//   fill FOLDER          fills a small file system mounted there; exits with 0 when all is well
//   others-fill FOLDER   the same, where something else fills it
//   start-full FOLDER    begins in one that is full, and gets room later
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "kvstore/base/executor.h"
#include "kvstore/tier/segment_log.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

// One line to the parent for each thing that is done, before the next begins.
int AppendUntilKilled(const std::string& folder, uint64_t seed) {
  auto io = MakeBlockIo({});
  base::ThreadPool executor("log", 2);
  SegmentLogOptions options;
  options.segment_bytes = 1 << 20;
  options.directories = {{folder, 8 << 20}};
  options.write_buffer_bytes = 64 << 10;
  auto log = OpenSegmentLog(options, io->get(), &executor);
  std::vector<RecordId> live;
  const auto take = [&](const RecordLog::Recovered& record) { live.push_back(record.id); };
  if (!log.ok() || !(*log)->Recover(take).ok()) return 1;
  std::mt19937_64 random(seed);
  for (;;) {
    uint64_t line[2] = {0, 0};  // id and bytes, or id and 0 when it was erased
    Outcome outcome;
    if (live.size() > 120 || (!live.empty() && random() % 4 == 0)) {
      std::swap(live[random() % live.size()], live.back());
      line[0] = live.back();
      live.pop_back();
      (*log)->Erase(std::span(line, 1), Sync::kNo, outcome.Done());
      if (!outcome.Await().ok()) return 2;
    } else {
      line[1] = random() % 60000 + 1;
      const std::string label = std::to_string(line[1]);
      const std::string payload = PayloadOf(label, line[1]);
      line[0] = (*log)->Append({label, std::as_bytes(std::span(payload)), CrcOf(payload)},
                               outcome.Done());
      if (!outcome.Await().ok()) return 3;
      live.push_back(line[0]);
    }
    if (write(STDOUT_FILENO, line, sizeof(line)) != sizeof(line)) return 4;
  }
}

// Of this process alone, where the machine lets it mount one.
bool MountSmallFileSystem(const std::string& folder, const char* size) {
  return unshare(CLONE_NEWNS) == 0 && mount("", "/", "", MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("tmpfs", folder.c_str(), "tmpfs", 0, size) == 0;
}

// A log of segments of 1 MiB in a folder of its own.
class SmallLog {
 public:
  SmallLog(const std::string& folder, uint64_t capacity_bytes) {
    SegmentLogOptions options;
    options.segment_bytes = 1 << 20;
    options.directories = {{folder + "/log", capacity_bytes}};
    log_ = OpenSegmentLog(options, io_->get(), &executor_);
    if (log_.ok()) status_ = (*log_)->Recover([](const auto&) {});
  }
  bool ok() const { return log_.ok() && status_.ok(); }
  RecordLog* operator->() { return log_->get(); }
  absl::Status Put(RecordId* id) {
    Outcome outcome;
    *id = (*log_)->Append({"x", std::as_bytes(std::span(payload_)), 0, Sync::kNo}, outcome.Done());
    return outcome.Await();
  }
  absl::Status Erase(std::span<const RecordId> ids) {
    Outcome outcome;
    (*log_)->Erase(ids, Sync::kYes, outcome.Done());
    return outcome.Await();
  }

 private:
  absl::StatusOr<std::unique_ptr<BlockIo>> io_ = MakeThreadIo({});
  base::ThreadPool executor_{"log", 2};
  const std::string payload_ = std::string(100000, 'x');
  absl::StatusOr<std::unique_ptr<RecordLog>> log_;
  absl::Status status_;
};

// Until the file system has no more.
void Fill(const std::string& file) {
  const std::string bytes(4096, 'x');
  std::ofstream filler(file);
  while (filler.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush()) {
  }
}

int FillSmallFileSystem(const std::string& folder) {
  if (!MountSmallFileSystem(folder, "size=6m")) return kCannotMount;
  SmallLog log(folder, 16 << 20);
  if (!log.ok()) return 1;
  std::vector<RecordId> ids(1);
  while (ids.size() < 200 && log.Put(&ids.back()).ok()) ids.push_back(0);
  const RecordId refused = ids.back();
  ids.pop_back();
  if (ids.size() < 30 || ids.size() > 60) return 2;
  if (!absl::IsResourceExhausted(log.Put(&ids.emplace_back()))) return 3;
  ids.pop_back();
  if (log->Usage().directories[0].state != DirectoryState::kFull) return 4;
  // Room is made, and it goes on.
  if (!log.Erase(std::span(ids).first(25)).ok()) return 5;
  RecordId id = 0;
  absl::Status status;
  for (int i = 0; i < 1000 && !(status = log.Put(&id)).ok(); ++i) usleep(1000);
  if (!status.ok() || id <= refused) return 6;
  // It stays full, and eviction works against what is there.
  const LogUsage usage = log->Usage();
  if (usage.directories[0].state != DirectoryState::kFull) return 7;
  return usage.usable_bytes < 6 << 20 ? 0 : 8;
}

// Half of what the log has is dead when something else takes the rest of the file system.
int OthersFillTheFileSystem(const std::string& folder) {
  if (!MountSmallFileSystem(folder, "size=16m")) return kCannotMount;
  SmallLog log(folder, 64 << 20);
  if (!log.ok()) return 1;
  std::vector<RecordId> gone;
  for (int i = 0; i < 100; ++i) {
    RecordId id = 0;
    if (!log.Put(&id).ok()) return 2;
    if (i % 2 == 0) gone.push_back(id);
  }
  if (!log.Erase(gone).ok()) return 3;
  Fill(folder + "/filler");
  // Of ten half empty segments three are won.
  for (int i = 0; i < 25; ++i) {
    RecordId id = 0;
    if (!log.Put(&id).ok()) return 4;
  }
  return log->Usage().directories[0].state == DirectoryState::kFull ? 0 : 5;
}

// Nothing is free when the log begins, and all of it a little later.
int StartWhenOthersHaveAll(const std::string& folder) {
  if (!MountSmallFileSystem(folder, "size=16m")) return kCannotMount;
  std::filesystem::create_directory(folder + "/log");
  Fill(folder + "/filler");
  // The list of directories has to be written.
  std::filesystem::resize_file(folder + "/filler",
                               std::filesystem::file_size(folder + "/filler") - (64 << 10));
  SmallLog log(folder, 64 << 20);
  if (!log.ok()) return 1;
  RecordId id = 0;
  if (!absl::IsResourceExhausted(log.Put(&id))) return 2;
  std::filesystem::remove(folder + "/filler");
  // It is tried again after ten seconds.
  for (int i = 0; i < 300 && !log.Put(&id).ok(); ++i) {
    usleep(100'000);
    log->Tick();
  }
  for (int i = 0; i < 50; ++i) {
    log->Tick();
    if (!log.Put(&id).ok()) return 3;
  }
  return 0;
}

int Run(int count, char** words) {
  const std::string what = count > 2 ? words[1] : "";
  if (what == "append" && count == 4) return AppendUntilKilled(words[2], std::stoull(words[3]));
  if (what == "fill") return FillSmallFileSystem(words[2]);
  if (what == "start-full") return StartWhenOthersHaveAll(words[2]);
  if (what == "others-fill") return OthersFillTheFileSystem(words[2]);
  return 64;
}

}  // namespace
}  // namespace varve::tier

int main(int count, char** words) { return varve::tier::Run(count, words); }
