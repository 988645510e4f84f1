#include "gpu_worker/sidecar/shared_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/hash.h"

namespace varve::worker {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status Failed(const char* what, const std::string& path, int error) {
  char buffer[128];
  const std::string text = absl::StrCat("shared memory: ", what, " ", path, ": ",
                                        strerror_r(error, buffer, sizeof(buffer)));
  if (error == ENOSPC || error == ENOMEM || error == EFBIG)
    return absl::ResourceExhaustedError(text);
  if (error == ENOENT) return absl::NotFoundError(text);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return absl::UnavailableError(text);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedFile>> SharedFile::Create(const std::string& directory,
                                                               const std::string& name,
                                                               size_t bytes) {
  const std::string path =
      absl::StrCat(directory, "/varve-", name, "-", absl::BytesToHexString(base::RandomBytes(8)));
  const Descriptor fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (fd.get() < 0) return Failed("create", path, errno);
  int error = posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
  void* data = MAP_FAILED;
  if (error == 0) {
    data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (data == MAP_FAILED) error = errno;
  }
  if (error != 0) {
    unlink(path.c_str());
    return Failed("reserve", absl::StrCat(bytes, " bytes for ", path), error);
  }
  return std::unique_ptr<SharedFile>(
      new SharedFile(path, static_cast<std::byte*>(data), bytes, true));
}

absl::StatusOr<std::unique_ptr<SharedFile>> SharedFile::Open(const std::string& path, size_t bytes,
                                                             bool writable) {
  const Descriptor fd(open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
  if (fd.get() < 0) return Failed("open", path, errno);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return Failed("stat", path, errno);
  if (static_cast<size_t>(info.st_size) != bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("shared memory ", path, " has ", info.st_size, " bytes, expected ", bytes));
  }
  void* data =
      mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return Failed("map", path, errno);
  return std::unique_ptr<SharedFile>(
      new SharedFile(path, static_cast<std::byte*>(data), bytes, false));
}

SharedFile::~SharedFile() {
  munmap(data_, size_);
  if (owner_) unlink(path_.c_str());
}

}  // namespace varve::worker
