#include "kvstore/base/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace varve::base {
namespace {

int Listen(const std::string& path) {
  struct sockaddr_un address {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(bind(fd, reinterpret_cast<struct sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(fd, 1), 0);
  return fd;
}

class UnixSocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/varve-test-XXXXXX";
    directory_ = mkdtemp(name);
    path_ = directory_ + "/s";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
  std::string path_;
};

TEST_F(UnixSocketTest, ASecondServerIsRefusedAndTheFirstStays) {
  auto first = UnixSocket::Claim(path_);
  ASSERT_TRUE(first.ok()) << first.status();
  const int fd = Listen((*first)->bind_path());
  ASSERT_TRUE((*first)->Publish(0600).ok());
  struct stat info {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  for (int i = 0; i < 4; ++i) {  // more than the backlog
    const absl::Status second = UnixSocket::Claim(path_).status();
    EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(absl::StrContains(second.message(), "another process serves there")) << second;
  }
  close(fd);
  first->reset();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(UnixSocketTest, ADeadServersSocketIsReplaced) {
  close(Listen(path_));
  ASSERT_TRUE(std::filesystem::exists(path_));
  EXPECT_TRUE(UnixSocket::Claim(path_).ok());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(UnixSocketTest, AnothersSocketIsNotUnlinked) {
  auto first = UnixSocket::Claim(path_);
  ASSERT_TRUE(first.ok()) << first.status();
  const int fd = Listen((*first)->bind_path());
  ASSERT_TRUE((*first)->Publish(0600).ok());
  unlink(path_.c_str());
  const int other = Listen(path_);
  first->reset();
  EXPECT_TRUE(std::filesystem::exists(path_));
  close(fd);
  close(other);
}

TEST_F(UnixSocketTest, FilesAndLongPathsAreRefused) {
  std::ofstream(path_) << "precious";
  EXPECT_EQ(UnixSocket::Claim(path_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(std::filesystem::exists(path_));
  const absl::Status longer = UnixSocket::Claim(directory_ + "/" + std::string(120, 'x')).status();
  EXPECT_EQ(longer.code(), absl::StatusCode::kInvalidArgument) << longer;
}

}  // namespace
}  // namespace varve::base
