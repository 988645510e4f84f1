#include "kvstore/tier/segment_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/tier/record_log.h"
#include "kvstore/tier/segment_format.h"

namespace varve::tier {
namespace {

constexpr char kLockName[] = "varve.lock";
constexpr char kSetName[] = "varve.set";
constexpr char kNewSetName[] = "varve.set.new";
constexpr char kSpareName[] = "varve.spare";
constexpr size_t kMaxSetBytes = 8 << 20;
constexpr std::string_view kSuffix = ".seg";
constexpr char kAsideSuffix[] = ".aside";

absl::Status SystemError(int error, const char* call, std::string_view file) {
  absl::StatusCode code = absl::StatusCode::kInternal;
  if (error == ENOSPC || error == EDQUOT) code = absl::StatusCode::kResourceExhausted;
  if (error == EROFS || error == EACCES || error == EPERM) {
    code = absl::StatusCode::kPermissionDenied;
  }
  if (error == ENOENT || error == ENOTDIR) code = absl::StatusCode::kFailedPrecondition;
  if (error == EIO) code = absl::StatusCode::kDataLoss;
  return absl::Status(code, absl::StrCat(call, " ", base::Sv(file), ": ", std::strerror(error)));
}

// Its entry survives a loss of power, too.
absl::Status MakeDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0) {
    return errno == EEXIST ? absl::OkStatus() : SystemError(errno, "mkdir", path);
  }
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const base::Descriptor above(
      open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (above.get() < 0 || fsync(above.get()) != 0) return SystemError(errno, "fsync", parent);
  return absl::OkStatus();
}

}  // namespace

SegmentFiles::SegmentFiles(std::string path, int directory, int lock)
    : path_(std::move(path)), identity_(IdentityOf(path_)), directory_(directory), lock_(lock) {}

absl::StatusOr<std::unique_ptr<SegmentFiles>> SegmentFiles::Open(const std::string& path) {
  VARVE_RETURN_IF_ERROR(MakeDirectory(path));
  base::Descriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return SystemError(errno, "open", path);
  const std::string name = absl::StrCat(path, "/", kLockName);
  base::Descriptor lock(openat(directory.get(), kLockName, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock.get() < 0) return SystemError(errno, "open", name);
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return SystemError(errno, "flock", name);
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is in use by another process (it holds ", kLockName, ")"));
  }
  auto files =
      std::unique_ptr<SegmentFiles>(new SegmentFiles(path, directory.Release(), lock.Release()));
  files->ProbeDirect();
  return files;
}

std::optional<SegmentFiles::Identity> SegmentFiles::IdentityOf(const std::string& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) return std::nullopt;
  return Identity(found.st_dev, found.st_ino);
}

void SegmentFiles::ProbeDirect() {
  const base::Descriptor probe(
      openat(directory_.get(), kLockName, O_RDONLY | O_DIRECT | O_CLOEXEC));
  direct_ = probe.get() >= 0;
#ifdef STATX_DIOALIGN
  struct statx found {};
  if (direct_ && statx(probe.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) == 0 &&
      (found.stx_mask & STATX_DIOALIGN) != 0) {
    const uint32_t needed = std::max(found.stx_dio_mem_align, found.stx_dio_offset_align);
    direct_ = needed != 0 && std::has_single_bit(needed) && needed <= kReadAlignment;
    if (direct_) alignment_ = std::max(needed, kMinSegmentAlignment);
  }
#endif
  if (!direct_) {
    base::LogInfo(path_, ": no O_DIRECT here; its segments go through the page cache");
  }
}

std::string SegmentFiles::NameOf(uint64_t number) const { return absl::StrCat(number, ".seg"); }

absl::Status SegmentFiles::SyncDirectory() const {
  if (fsync(directory_.get()) == 0) return absl::OkStatus();
  return SystemError(errno, "fsync", path_);
}

absl::StatusOr<std::vector<uint64_t>> SegmentFiles::List() const {
  DIR* const entries = opendir(path_.c_str());
  if (entries == nullptr) return SystemError(errno, "opendir", path_);
  std::vector<uint64_t> numbers;
  while (const dirent* entry = readdir(entries)) {
    const std::string_view name = entry->d_name;
    uint64_t number = 0;
    if (name.ends_with(kSuffix) &&
        absl::SimpleAtoi(base::Sv(name.substr(0, name.size() - kSuffix.size())), &number) &&
        name == NameOf(number)) {
      numbers.push_back(number);
    }
  }
  closedir(entries);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

absl::StatusOr<int> SegmentFiles::Create(uint64_t number, uint64_t bytes) const {
  const std::string name = NameOf(number);
  const int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | (direct_ ? O_DIRECT : 0);
  base::Descriptor file(openat(directory_.get(), name.c_str(), flags, 0600));
  if (file.get() < 0) return SystemError(errno, "create", absl::StrCat(path_, "/", name));
  int error = fallocate(file.get(), 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  if (error == EOPNOTSUPP) {
    error = ftruncate(file.get(), static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  }
  absl::Status status;
  if (error != 0) status = SystemError(error, "fallocate", absl::StrCat(path_, "/", name));
  if (status.ok()) status = SyncDirectory();
  if (status.ok()) return file.Release();
  unlinkat(directory_.get(), name.c_str(), 0);
  return status;
}

absl::Status SegmentFiles::MakeSpare(uint64_t bytes) const {
  const std::string name = absl::StrCat(path_, "/", kSpareName);
  const base::Descriptor file(
      openat(directory_.get(), kSpareName, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (file.get() < 0) return SystemError(errno, "create", name);
  struct stat found {};
  if (fstat(file.get(), &found) != 0) return SystemError(errno, "stat", name);
  if (static_cast<uint64_t>(found.st_size) == bytes &&
      static_cast<uint64_t>(found.st_blocks) * 512 >= bytes) {
    return absl::OkStatus();
  }
  // What it has may be what it lacks.
  if (ftruncate(file.get(), 0) == 0 &&
      fallocate(file.get(), 0, 0, static_cast<off_t>(bytes)) == 0) {
    return SyncDirectory();
  }
  const int error = errno;
  unlinkat(directory_.get(), kSpareName, 0);
  return SystemError(error, "fallocate", name);
}

absl::StatusOr<int> SegmentFiles::CreateFromSpare(uint64_t number) const {
  const std::string name = NameOf(number);
  if (renameat2(directory_.get(), kSpareName, directory_.get(), name.c_str(), RENAME_NOREPLACE) !=
      0) {
    return SystemError(errno, "rename", absl::StrCat(path_, "/", kSpareName));
  }
  VARVE_RETURN_IF_ERROR(SyncDirectory());
  return OpenSegment(number, alignment_);
}

absl::StatusOr<int> SegmentFiles::OpenSegment(uint64_t number, uint32_t alignment) const {
  const std::string name = NameOf(number);
  const bool direct = direct_ && alignment >= alignment_;
  const int fd =
      openat(directory_.get(), name.c_str(), O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0));
  if (fd < 0) return SystemError(errno, "open", absl::StrCat(path_, "/", name));
  return fd;
}

absl::StatusOr<bool> SegmentFiles::IsFile(uint64_t number) const {
  const std::string name = NameOf(number);
  struct stat found {};
  if (fstatat(directory_.get(), name.c_str(), &found, 0) == 0) return S_ISREG(found.st_mode);
  return SystemError(errno, "stat", absl::StrCat(path_, "/", name));
}

absl::StatusOr<std::string> SegmentFiles::SetAside(uint64_t number) const {
  const std::string name = NameOf(number);
  std::string aside = absl::StrCat(name, kAsideSuffix);
  for (int i = 2; renameat2(directory_.get(), name.c_str(), directory_.get(), aside.c_str(),
                            RENAME_NOREPLACE) != 0;
       ++i) {
    if (errno != EEXIST) return SystemError(errno, "rename", absl::StrCat(path_, "/", name));
    aside = absl::StrCat(name, kAsideSuffix, i);
  }
  VARVE_RETURN_IF_ERROR(SyncDirectory());
  return aside;
}

absl::Status SegmentFiles::Remove(uint64_t number) const {
  const std::string name = NameOf(number);
  if (unlinkat(directory_.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
    return SystemError(errno, "unlink", absl::StrCat(path_, "/", name));
  }
  return SyncDirectory();
}

absl::Status SegmentFiles::RemoveToSpare(uint64_t number) const {
  const std::string name = NameOf(number);
  const std::string path = absl::StrCat(path_, "/", name);
  // Zeros again, before it has another name: what is found there is the next segment's. The end
  // first: should the power fail, a footer without its records would name what is no longer there.
  const base::Descriptor file(openat(directory_.get(), name.c_str(), O_RDWR | O_CLOEXEC));
  struct stat found {};
  if (file.get() < 0 || fstat(file.get(), &found) != 0) return SystemError(errno, "open", path);
  const off_t end = found.st_size - std::min<off_t>(found.st_size, kMaxSegmentAlignment);
  for (const off_t from : {end, off_t{0}}) {
    if (fallocate(file.get(), FALLOC_FL_ZERO_RANGE, from, found.st_size - from) != 0 ||
        fsync(file.get()) != 0) {
      return SystemError(errno, "zero", path);
    }
  }
  if (renameat(directory_.get(), name.c_str(), directory_.get(), kSpareName) != 0) {
    return SystemError(errno, "rename", path);
  }
  return SyncDirectory();
}

absl::StatusOr<std::string> SegmentFiles::ReadSet() const {
  const base::Descriptor file(openat(directory_.get(), kSetName, O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) {
    if (errno == ENOENT) return absl::NotFoundError("no list of directories");
    return SystemError(errno, "open", absl::StrCat(path_, "/", kSetName));
  }
  std::string bytes;
  char buffer[4096];
  while (bytes.size() <= kMaxSetBytes) {
    const ssize_t got = read(file.get(), buffer, sizeof(buffer));
    if (got < 0) return SystemError(errno, "read", absl::StrCat(path_, "/", kSetName));
    if (got == 0) break;
    bytes.append(buffer, static_cast<size_t>(got));
  }
  return bytes;
}

absl::Status SegmentFiles::WriteSet(std::string_view bytes) const {
  const std::string name = absl::StrCat(path_, "/", kNewSetName);
  {
    const base::Descriptor file(
        openat(directory_.get(), kNewSetName, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (file.get() < 0) return SystemError(errno, "create", name);
    while (!bytes.empty()) {
      const ssize_t done = write(file.get(), bytes.data(), bytes.size());
      if (done < 0) return SystemError(errno, "write", name);
      bytes.remove_prefix(static_cast<size_t>(done));
    }
    if (fsync(file.get()) != 0) return SystemError(errno, "fsync", name);
  }
  if (renameat(directory_.get(), kNewSetName, directory_.get(), kSetName) != 0) {
    return SystemError(errno, "rename", name);
  }
  return SyncDirectory();
}

void SegmentFiles::Leave() const {
  for (const char* name : {kSetName, kNewSetName, kSpareName, kLockName})
    unlinkat(directory_.get(), name, 0);
}

}  // namespace varve::tier
