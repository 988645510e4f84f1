#include "client/varvectl/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/descriptor.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/status.h"

namespace varve::varvectl {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = 1 << 20;
constexpr int kMaxLinks = 40;  // as the kernel's own limit

absl::Status WriteError(const std::string& file, const char* reason) {
  return absl::FailedPreconditionError(absl::StrCat("cannot write ", file, ": ", reason));
}

bool WriteAll(int fd, std::string_view bytes, const std::function<void(uint64_t)>& progress) {
  for (size_t written = 0; written < bytes.size();) {
    const size_t count = std::min(kChunkBytes, bytes.size() - written);
    const ssize_t n = write(fd, bytes.data() + written, count);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    written += static_cast<size_t>(n);
    progress(written);
  }
  return true;
}

absl::Status WriteInPlace(const std::string& file, std::string_view bytes,
                          const std::function<void(uint64_t)>& progress) {
  base::Descriptor out(open(file.c_str(), O_WRONLY | O_CLOEXEC));
  if (out.get() < 0 || !WriteAll(out.get(), bytes, progress) || !out.Close()) {
    return WriteError(file, std::strerror(errno));
  }
  return absl::OkStatus();
}

// Where the links lead, also when nothing is there.
absl::StatusOr<fs::path> FollowLinks(const std::string& file) {
  fs::path path = file;
  std::error_code error;
  for (int links = 0; fs::is_symlink(path, error); ++links) {
    if (links == kMaxLinks) return WriteError(file, std::strerror(ELOOP));
    path = path.parent_path() / fs::read_symlink(path, error);
    if (error) return WriteError(file, error.message().c_str());
  }
  return path;
}

// old: of the file that is replaced, or null.
absl::Status Replace(const fs::path& target, const struct stat* old, std::string_view bytes,
                     const std::function<void(uint64_t)>& progress) {
  const std::string part =
      target.parent_path() /
      absl::StrCat(".varvectl-", absl::BytesToHexString(base::RandomBytes(8)), ".part");
  base::Descriptor out(
      open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, old == nullptr ? 0666 : 0600));
  if (out.get() < 0) return WriteError(target, std::strerror(errno));
  bool good = WriteAll(out.get(), bytes, progress);
  if (good && old != nullptr) {
    // A user who may not give files away keeps them.
    (void)!fchown(out.get(), old->st_uid, old->st_gid);
    good = fchmod(out.get(), old->st_mode & 07777) == 0;
  }
  good = good && out.Close() && rename(part.c_str(), target.c_str()) == 0;
  if (good) return absl::OkStatus();
  const absl::Status failed = WriteError(target, std::strerror(errno));
  unlink(part.c_str());
  return failed;
}

}  // namespace

absl::Status WriteFile(const std::string& file, std::string_view bytes,
                       const std::function<void(uint64_t)>& progress) {
  struct stat old;
  const bool exists = stat(file.c_str(), &old) == 0;
  if (!exists && errno != ENOENT) return WriteError(file, std::strerror(errno));
  if (exists && !S_ISREG(old.st_mode)) return WriteInPlace(file, bytes, progress);
  VARVE_ASSIGN_OR_RETURN(const fs::path target, FollowLinks(file));
  return Replace(target, exists ? &old : nullptr, bytes, progress);
}

}  // namespace varve::varvectl
