#include "gpu_worker/sidecar/shared_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/descriptor.h"
#include "kvstore/base/hash.h"

namespace varve::worker {
namespace {

constexpr size_t kRandomBytes = 8;

std::string Prefix(const std::string& name) { return absl::StrCat("varve-", name, "-"); }

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
  const std::string path = absl::StrCat(directory, "/", Prefix(name),
                                        absl::BytesToHexString(base::RandomBytes(kRandomBytes)));
  base::Descriptor fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (fd.get() < 0) return Failed("create", path, errno);
  int error = flock(fd.get(), LOCK_EX) == 0 ? 0 : errno;
  struct stat info {};
  if (error == 0 && fstat(fd.get(), &info) != 0) error = errno;
  // Another worker's sweep came between the two and took it for abandoned.
  if (error == 0 && info.st_nlink == 0) return Create(directory, name, bytes);
  if (error == 0) error = posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
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
      new SharedFile(path, static_cast<std::byte*>(data), bytes, fd.Release()));
}

absl::StatusOr<std::unique_ptr<SharedFile>> SharedFile::Open(const std::string& path, size_t bytes,
                                                             bool writable) {
  const base::Descriptor fd(open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
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
      new SharedFile(path, static_cast<std::byte*>(data), bytes, -1));
}

SharedFile::Swept SharedFile::SweepAbandoned(const std::string& directory,
                                             std::span<const char* const> names) {
  Swept swept;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string file = entry.path().filename().string();
    const bool ours = std::any_of(names.begin(), names.end(), [&](const char* name) {
      return absl::StartsWith(file, Prefix(name)) &&
             file.size() == Prefix(name).size() + 2 * kRandomBytes;
    });
    if (!ours) continue;
    const std::string path = entry.path().string();
    const base::Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat info {};
    if (fd.get() < 0 || fstat(fd.get(), &info) != 0) continue;
    if (!S_ISREG(info.st_mode) || info.st_uid != geteuid()) continue;
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;
    if (unlink(path.c_str()) != 0) continue;
    ++swept.files;
    swept.bytes += static_cast<uint64_t>(info.st_size);
  }
  return swept;
}

SharedFile::~SharedFile() {
  munmap(data_, size_);
  if (lock_ < 0) return;
  unlink(path_.c_str());
  close(lock_);
}

}  // namespace varve::worker
