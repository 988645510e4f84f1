#include "tests/unit/tier/log_fixture.h"

#include <unistd.h>

#include <cstring>
#include <random>

#include "kvstore/base/mutex.h"
#include "kvstore/page/checksum.h"
#include "kvstore/tier/arena.h"
#include "tests/support/assert_ok.h"

namespace varve::tier {

struct Outcome::State {
  base::Mutex mutex;
  base::CondVar changed;
  bool over = false;
  absl::Status status;
};

std::shared_ptr<Outcome::State> Outcome::MakeState() { return std::make_shared<State>(); }

RecordLog::Done Outcome::Done() {
  return [state = state_](absl::Status status) {
    base::MutexLock lock(state->mutex);
    EXPECT_FALSE(state->over) << "a second Done";
    state->over = true;
    state->status = std::move(status);
    state->changed.NotifyAll();
  };
}

absl::Status Outcome::Await() {
  base::MutexLock lock(state_->mutex);
  while (!state_->over) state_->changed.Wait(state_->mutex);
  return state_->status;
}

bool Outcome::over() const {
  base::MutexLock lock(state_->mutex);
  return state_->over;
}

std::string PayloadOf(const std::string& label, size_t bytes) {
  std::mt19937_64 random(std::hash<std::string>()(label));
  std::string payload(bytes + 8, '\0');
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = random();
    std::memcpy(payload.data() + i, &word, 8);
  }
  payload.resize(bytes);
  return payload;
}

uint32_t CrcOf(const std::string& payload) { return page::Crc32c(payload.data(), payload.size()); }

pid_t StartLogChild(const std::vector<std::string>& words, int fd) {
  std::vector<char*> arguments = {const_cast<char*>(LOG_CHILD)};
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t child = fork();
  if (child != 0) return child;
  dup2(fd, STDOUT_FILENO);
  execv(LOG_CHILD, arguments.data());
  _exit(127);
}

void LogTest::SetUp() {
  const ::testing::TestInfo* test = ::testing::UnitTest::GetInstance()->current_test_info();
  folder_ = ::testing::TempDir() + "varve-log-" + std::to_string(getpid()) + "-" + test->name();
  for (char& c : folder_) {
    if (c == '/' && &c >= folder_.data() + ::testing::TempDir().size()) c = '-';
  }
  std::filesystem::remove_all(folder_);
  ASSERT_TRUE(std::filesystem::create_directories(folder_));
  auto io = MakeBlockIo({});
  ASSERT_OK(io.status());
  io_ = *std::move(io);
}

void LogTest::TearDown() {
  log_.reset();
  std::filesystem::remove_all(folder_);
}

SegmentLogOptions LogTest::Options(uint64_t segments) const {
  SegmentLogOptions options;
  options.segment_bytes = 1 << 20;
  options.directories = {{Folder("log"), segments << 20}};
  options.write_buffer_bytes = 64 << 10;
  options.write_buffers = 4;
  return options;
}

void LogTest::Open(const SegmentLogOptions& options) {
  log_.reset();
  recovered_.clear();
  recovered_bytes_.clear();
  auto log = OpenSegmentLog(options, io_.get(), &executor_);
  ASSERT_OK(log.status());
  log_ = *std::move(log);
  ASSERT_OK(log_->Recover([&](const RecordLog::Recovered& record) {
    EXPECT_TRUE(recovered_.emplace(record.id, record.label).second) << record.id << " twice";
    recovered_bytes_[record.id] = record.payload_bytes;
  }));
}

SegmentLogOptions LogTest::Copy(const SegmentLogOptions& options, const std::string& name) const {
  SegmentLogOptions copy = options;
  copy.directories[0].path = Folder(name);
  std::filesystem::remove_all(Folder(name));
  std::filesystem::copy(options.directories[0].path, Folder(name));
  return copy;
}

RecordId LogTest::Put(const std::string& label, size_t bytes, Sync sync) {
  const std::string payload = PayloadOf(label, bytes);
  Outcome outcome;
  const RecordId id = log_->Append({label, std::as_bytes(std::span(payload)), CrcOf(payload), sync},
                                   outcome.Done());
  const absl::Status status = outcome.Await();
  EXPECT_TRUE(status.ok()) << label << ": " << status;
  return id;
}

absl::StatusOr<std::string> LogTest::Get(RecordId id, size_t bytes) {
  const size_t rounded = (bytes + kReadAlignment) / kReadAlignment * kReadAlignment;
  auto arena = Arena::Map(rounded, false);
  if (!arena.ok()) return arena.status();
  Outcome outcome;
  log_->Read(id, 0, arena->memory().first(rounded), IoClass::kDemand, outcome.Done());
  const absl::Status status = outcome.Await();
  if (!status.ok()) return status;
  return std::string(reinterpret_cast<const char*>(arena->memory().data()), bytes);
}

absl::Status LogTest::Erase(std::vector<RecordId> ids, Sync sync) {
  Outcome outcome;
  log_->Erase(ids, sync, outcome.Done());
  return outcome.Await();
}

}  // namespace varve::tier
