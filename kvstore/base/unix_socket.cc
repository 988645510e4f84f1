#include "kvstore/base/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::base {
namespace {

absl::Status Refused(const std::string& path, const char* what, int error) {
  char buffer[128];
  return absl::UnavailableError(absl::StrCat("cannot listen on unix:", path, ": ", what, ": ",
                                             strerror_r(error, buffer, sizeof(buffer))));
}

// 0 when something listens, else connect's errno. EAGAIN: it listens, and is busy.
int TryConnect(const std::string& path) {
  struct sockaddr_un address {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  const int result = connect(fd, reinterpret_cast<struct sockaddr*>(&address), sizeof(address));
  const int error = result == 0 ? 0 : errno;
  close(fd);
  return error;
}

// A server that is being started beside a running one must not take its place.
absl::Status RemoveStale(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Refused(path, "looking at it", errno);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen on unix:", path, ": there is a file that is no socket"));
  }
  const int error = TryConnect(path);
  if (error == 0 || error == EAGAIN) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on unix:", path, ": another process serves there"));
  }
  if (error != ECONNREFUSED) return Refused(path, "connecting to what is there", error);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return Refused(path, "removing a dead server's socket", errno);
  }
  return absl::OkStatus();
}

}  // namespace

UnixSocket::UnixSocket(const std::string& path)
    : path_(path), bind_path_(absl::StrCat(path, ".", getpid())) {}

absl::StatusOr<std::unique_ptr<UnixSocket>> UnixSocket::Claim(const std::string& path) {
  std::unique_ptr<UnixSocket> claimed(new UnixSocket(path));
  constexpr size_t kMost = sizeof(sockaddr_un{}.sun_path) - 1;
  if (claimed->bind_path_.size() > kMost) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot listen on unix:", path, ": the path has ", path.size(), " bytes, allowed: at most ",
        kMost - (claimed->bind_path_.size() - path.size())));
  }
  VARVE_RETURN_IF_ERROR(RemoveStale(path));
  return claimed;
}

absl::Status UnixSocket::Publish(std::optional<mode_t> mode) {
  struct stat info {};
  if ((mode && chmod(bind_path_.c_str(), *mode) != 0) || lstat(bind_path_.c_str(), &info) != 0) {
    return Refused(path_, "setting its mode", errno);
  }
  VARVE_RETURN_IF_ERROR(RemoveStale(path_));
  if (rename(bind_path_.c_str(), path_.c_str()) != 0) return Refused(path_, "renaming", errno);
  device_ = info.st_dev;
  inode_ = info.st_ino;
  return absl::OkStatus();
}

UnixSocket::~UnixSocket() {
  struct stat info {};
  if (inode_ != 0 && lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ &&
      info.st_ino == inode_) {
    unlink(path_.c_str());
  }
}

}  // namespace varve::base
