#include "kvstore/transport/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvstore/base/prefault.h"
#include "kvstore/base/status.h"
#include "kvstore/transport/wire.h"

namespace varve::transport {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr uint64_t kBlockBytes = 512;  // the unit of stat's st_blocks

std::string Name(uint64_t secret) {
  return absl::StrCat("varve-", absl::Hex(secret, absl::kZeroPad16));
}

std::string LinkTarget(const std::string& path) {
  char target[128];
  const ssize_t n = readlink(path.c_str(), target, sizeof(target));
  return n < 0 ? "" : std::string(target, static_cast<size_t>(n));
}

}  // namespace

absl::StatusOr<SharedMemory> SharedMemory::Allocate(size_t bytes) {
  if (bytes == 0) return absl::InvalidArgumentError("cannot allocate 0 bytes");
  const absl::Status exhausted =
      absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
  SharedMemory shared;
  shared.secret_ = RandomId();
  shared.fd_ = memfd_create(Name(shared.secret_).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (shared.fd_ < 0 || bytes > INT64_MAX || ftruncate(shared.fd_, static_cast<off_t>(bytes)) != 0)
    return exhausted;
  if (fcntl(shared.fd_, F_ADD_SEALS, kSeals) != 0)
    return absl::InternalError("cannot seal shared memory");
  if (!shared.Map(bytes).ok() || !base::Prefault(shared.memory_).ok()) return exhausted;
  return shared;
}

absl::StatusOr<SharedMemory> SharedMemory::Attach(pid_t pid, const std::string& key, size_t bytes) {
  WireReader reader(key);
  const auto fd = reader.Get<int32_t>();
  const auto secret = reader.Get<uint64_t>();
  if (!reader.Finished() || fd < 0)
    return absl::InvalidArgumentError("malformed key of shared memory");
  const std::string path = absl::StrCat("/proc/", pid, "/fd/", fd);
  if (access(path.c_str(), R_OK | W_OK) != 0 && (errno == EACCES || errno == EPERM)) {
    return absl::UnavailableError("no permission to open the peer's memory");
  }
  if (LinkTarget(path) != absl::StrCat("/memfd:", Name(secret), " (deleted)")) {
    return absl::InvalidArgumentError("key names no shared memory of the peer");
  }
  SharedMemory shared;
  shared.fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (shared.fd_ < 0)
    return absl::UnavailableError(absl::StrCat("cannot open shared memory: ", strerror(errno)));
  // The name may have changed hands between the look and the open: everything else is asked of the
  // open file.
  struct stat info {};
  if (fcntl(shared.fd_, F_GET_SEALS) != kSeals || fstat(shared.fd_, &info) != 0) {
    return absl::InvalidArgumentError("key names memory that is not sealed");
  }
  if (static_cast<size_t>(info.st_size) != bytes) {
    return absl::InvalidArgumentError(absl::StrCat("peer's shared memory has ", info.st_size,
                                                   " bytes, its descriptor says ", bytes));
  }
  // Allocate has touched every page. Pages that are missing would be charged to whoever touches
  // them first: to us.
  const auto present = static_cast<uint64_t>(info.st_blocks) * kBlockBytes;
  if (present < bytes) {
    return absl::InvalidArgumentError(absl::StrCat("peer's shared memory is sparse: ", present,
                                                   " of ", bytes,
                                                   " bytes are present; all must be"));
  }
  VARVE_RETURN_IF_ERROR(shared.Map(bytes));
  close(std::exchange(shared.fd_, -1));  // the mapping stays
  return shared;
}

absl::Status SharedMemory::Map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (memory == MAP_FAILED)
    return absl::UnavailableError(absl::StrCat("cannot map ", bytes, " bytes"));
  memory_ = {static_cast<std::byte*>(memory), bytes};
  return absl::OkStatus();
}

SharedMemory::~SharedMemory() {
  if (!memory_.empty()) munmap(memory_.data(), memory_.size());
  if (fd_ >= 0) close(fd_);
}

std::string SharedMemory::Key() const {
  WireWriter writer;
  writer.Put(static_cast<int32_t>(fd_));
  writer.Put(secret_);
  return std::move(writer).Seal();
}

}  // namespace varve::transport
