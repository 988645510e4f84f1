#include "kvstore/server/directory_adder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/support/fake_record_log.h"

namespace varve::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Disks that hang from the moment they are added until the test says so.
class HangingLog final : public tier::FakeRecordLog {
 public:
  HangingLog() : FakeRecordLog(1 << 20) {}
  absl::Status AddDirectory(const std::string& path, uint64_t) override {
    base::MutexLock lock(mutex_);
    begun_.insert(path);
    changed_.NotifyAll();
    while (hanging_) changed_.Wait(mutex_);
    return absl::OkStatus();
  }
  void AwaitBegun(size_t count) {
    base::MutexLock lock(mutex_);
    while (begun_.size() < count) changed_.Wait(mutex_);
  }
  size_t begun() const {
    base::MutexLock lock(mutex_);
    return begun_.size();
  }
  void Thaw() {
    base::MutexLock lock(mutex_);
    hanging_ = false;
    changed_.NotifyAll();
  }

 private:
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool hanging_ ABSL_GUARDED_BY(mutex_) = true;
  std::multiset<std::string> begun_ ABSL_GUARDED_BY(mutex_);
};

class DirectoryAdderTest : public ::testing::Test {
 protected:
  ~DirectoryAdderTest() override { log_.Thaw(); }

  std::future<absl::Status> Add(const std::string& path) {
    auto promise = std::make_shared<std::promise<absl::Status>>();
    std::future<absl::Status> answer = promise->get_future();
    adder_.Add(path, 1 << 30, [promise](absl::Status s) { promise->set_value(std::move(s)); });
    return answer;
  }
  static bool Answered(const std::future<absl::Status>& answer) {
    return answer.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  std::vector<std::future<absl::Status>> AddAsManyAsMayHang() {
    std::vector<std::future<absl::Status>> answers;
    for (int i = 0; i < DirectoryAdder::kAtATime; ++i) {
      answers.push_back(Add("/mnt/nvme" + std::to_string(i)));
    }
    log_.AwaitBegun(DirectoryAdder::kAtATime);
    return answers;
  }

  HangingLog log_;
  DirectoryAdder adder_{&log_};
};

TEST_F(DirectoryAdderTest, DisksThatHangAreFewAndTheRestIsRefused) {
  auto answers = AddAsManyAsMayHang();
  auto refused = Add("/mnt/other");
  ASSERT_TRUE(Answered(refused));
  EXPECT_THAT(refused.get().ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("/mnt/nvme0=1073741824"),
                    HasSubstr("/mnt/nvme3=1073741824")));
  for (auto& answer : answers) EXPECT_FALSE(Answered(answer));
  log_.Thaw();
  for (auto& answer : answers) EXPECT_TRUE(answer.get().ok());
  EXPECT_TRUE(Add("/mnt/other").get().ok());
}

TEST_F(DirectoryAdderTest, TheSameOnceMoreWaitsForTheSameEnd) {
  auto answers = AddAsManyAsMayHang();
  for (int i = 0; i < 100; ++i) answers.push_back(Add("/mnt/nvme0"));
  log_.Thaw();
  for (auto& answer : answers) EXPECT_TRUE(answer.get().ok());
  EXPECT_EQ(log_.begun(), size_t{DirectoryAdder::kAtATime});
}

TEST_F(DirectoryAdderTest, NobodyWaitsWhenTheStoreEnds) {
  auto answers = AddAsManyAsMayHang();
  adder_.Close();
  for (auto& answer : answers) {
    ASSERT_TRUE(Answered(answer));
    EXPECT_TRUE(absl::IsUnavailable(answer.get()));
  }
  EXPECT_TRUE(absl::IsUnavailable(Add("/mnt/other").get()));
}

}  // namespace
}  // namespace varve::server
