#include "gpu_worker/sidecar/shared_file.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace varve::worker {
namespace {

constexpr const char* kNames[] = {"pool", "tensors"};

class SharedFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/varve-test-XXXXXX";
    directory_ = mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  size_t Files() const {
    size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      files += entry.is_regular_file();
    }
    return files;
  }

  std::string directory_;
};

TEST_F(SharedFileTest, WhatAKilledWorkerLeftIsSweptAndNothingElse) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto pool = SharedFile::Create(directory_, "pool", 8192);
    const auto tensors = SharedFile::Create(directory_, "tensors", 4096);
    if (!pool.ok() || !tensors.ok() || write(ready[1], "r", 1) != 1) _exit(1);
    while (true) pause();
  }
  close(ready[1]);
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  const auto mine = SharedFile::Create(directory_, "pool", 4096);
  ASSERT_TRUE(mine.ok()) << mine.status();
  std::ofstream(directory_ + "/varve-pool-of-somebody") << "else";
  EXPECT_EQ(SharedFile::SweepAbandoned(directory_, kNames).files, 0u);  // all are in use
  EXPECT_EQ(Files(), 4u);

  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  const SharedFile::Swept swept = SharedFile::SweepAbandoned(directory_, kNames);
  EXPECT_EQ(swept.files, 2u);
  EXPECT_EQ(swept.bytes, 8192u + 4096u);
  EXPECT_EQ(Files(), 2u);
  EXPECT_TRUE(std::filesystem::exists((*mine)->path()));
  EXPECT_TRUE(SharedFile::Open((*mine)->path(), 4096, true).ok());
}

TEST_F(SharedFileTest, TheMakerUnlinksItsFile) {
  auto made = SharedFile::Create(directory_, "pool", 4096);
  ASSERT_TRUE(made.ok()) << made.status();
  {
    const auto opened = SharedFile::Open((*made)->path(), 4096, false);
    ASSERT_TRUE(opened.ok()) << opened.status();
  }
  EXPECT_EQ(Files(), 1u);
  made->reset();
  EXPECT_EQ(Files(), 0u);
  EXPECT_EQ(SharedFile::SweepAbandoned("/no/such/directory", kNames).files, 0u);
}

}  // namespace
}  // namespace varve::worker
