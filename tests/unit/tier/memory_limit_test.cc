// Where the memory limit comes from, with /proc and /sys laid out in a temporary folder.
#include "kvstore/tier/memory_limit.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::tier {
namespace {

using ::testing::HasSubstr;

class MemoryLimitTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    root_ = testing::TempDir() + "memory_limit_" + test->name();
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  std::string root_;
};

TEST_F(MemoryLimitTest, NothingKnownIsUnlimited) {
  EXPECT_EQ(AvailableMemory(root_).available_bytes, UINT64_MAX);
}

TEST_F(MemoryLimitTest, ReadsMemAvailable) {
  Write("/proc/meminfo",
        "MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable: 40 kB\nHugePages_Total: 0\n");
  const MemoryLimit limit = AvailableMemory(root_);
  EXPECT_EQ(limit.available_bytes, 40u * 1024);
  EXPECT_THAT(limit.source, HasSubstr("MemAvailable"));
}

TEST_F(MemoryLimitTest, CgroupV2CountsWhatIsUsedAlready) {
  Write("/proc/meminfo", "MemAvailable: 1000000 kB\n");
  Write("/proc/self/cgroup", "0::/pod/store\n");
  Write("/sys/fs/cgroup/pod/store/memory.max", "8192\n");
  Write("/sys/fs/cgroup/pod/store/memory.current", "2048\n");
  const MemoryLimit limit = AvailableMemory(root_);
  EXPECT_EQ(limit.available_bytes, 6144u);
  EXPECT_THAT(limit.source, HasSubstr("/pod/store"));
}

TEST_F(MemoryLimitTest, ParentGroupsLimitToo) {
  Write("/proc/self/cgroup", "0::/pod/store\n");
  Write("/sys/fs/cgroup/pod/store/memory.max", "max\n");
  Write("/sys/fs/cgroup/pod/memory.max", "4096\n");
  Write("/sys/fs/cgroup/pod/memory.current", "5000\n");
  const MemoryLimit limit = AvailableMemory(root_);
  EXPECT_EQ(limit.available_bytes, 0u)
      << "more in use than allowed leaves nothing, not a wrapped number";
}

TEST_F(MemoryLimitTest, CgroupV1) {
  Write("/proc/self/cgroup", "12:cpu,cpuacct:/a\n9:memory:/b\n");
  Write("/sys/fs/cgroup/memory/b/memory.limit_in_bytes", "10000\n");
  Write("/sys/fs/cgroup/memory/b/memory.usage_in_bytes", "1000\n");
  Write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1\n");
  EXPECT_EQ(AvailableMemory(root_).available_bytes, 9000u);
}

TEST_F(MemoryLimitTest, ThisMachineHasSomeMemory) {
  EXPECT_GT(AvailableMemory().available_bytes, 1u << 20);
}

}  // namespace
}  // namespace varve::tier
