#include "kvstore/transport/ucx_worker_address.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::transport {
namespace {

// ---- the format: ucp/wireup/address.c of UCX 1.13
// ------------------------------------------------------ A header, the worker's id, then devices;
// each device has transports ("interfaces" on it). The last device and the last transport of each
// are marked.
constexpr uint8_t kHeader = 0x20;        // version 1; flags: has a worker id
constexpr uint8_t kNoTransports = 0x80;  // of a device's first byte
constexpr uint8_t kLast = 0x80;
constexpr uint8_t kHasPaths = 0x40;  // of a device's length byte
constexpr uint8_t kHasSystemDevice = 0x20;
constexpr uint8_t kDeviceLength = 0x1f;
constexpr uint8_t kHasEndpoints = 0x40;  // of a transport's length byte
constexpr uint8_t kInterfaceLength = 0x3f;
constexpr uint32_t kFeatures = 0xffffff00;  // the byte below them is a priority
constexpr size_t kMaxEntries = 64;

// Names' CRCs.
constexpr uint16_t kPosix = 0xd3a7;
constexpr uint16_t kCma = 0x8b47;
constexpr uint16_t kTcp = 0x19cf;

// uct_tcp_device_addr_t: a flag and a family, then an address of it or, for loopback devices, a
// namespace.
constexpr size_t kTcpHeadBytes = 2;
constexpr size_t kTcpLoopbackBytes = kTcpHeadBytes + 16;

// A posix queue: the process and the descriptor of its file. The flags say how to get at it.
constexpr int kQueueBits = 30;
constexpr uint64_t kQueueMask = (uint64_t{1} << kQueueBits) - 1;
constexpr uint64_t kQueueFlags = 0xfull << 60;
constexpr uint64_t kQueueInProc = 1ull << 63;
constexpr const char* kQueueName = "/ucx_shm_posix_";

absl::Status Refuse(std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("UCX worker address: ", std::string(why)));
}

class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : rest_(bytes) {}

  template <typename T>
  T Get() {
    T value{};
    const std::string_view bytes = Take(sizeof(T));
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string_view Take(size_t n) {
    whole_ = whole_ && n <= rest_.size();
    if (!whole_) return {};
    const std::string_view taken = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return taken;
  }
  bool whole() const { return whole_; }
  bool finished() const { return whole_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool whole_ = true;
};

// Seconds that a device costs, or bytes per second that it moves: UCX computes thresholds from
// them.
bool Between(float value, float low, float high) {
  return std::isfinite(value) && value >= low && value <= high;
}

uint64_t Word(std::string_view bytes) {
  uint64_t word = 0;
  std::memcpy(&word, bytes.data(), std::min(bytes.size(), sizeof(word)));
  return word;
}

struct QueueFile {
  std::string path;
  struct stat info {};
};

// False when the process has no such queue.
bool FindQueue(uint64_t queue, QueueFile* file) {
  const std::string link =
      absl::StrCat("/proc/", queue & kQueueMask, "/fd/", (queue >> kQueueBits) & kQueueMask);
  char path[256];
  const ssize_t n = readlink(link.c_str(), path, sizeof(path));
  if (n <= 0 || stat(link.c_str(), &file->info) != 0 || !S_ISREG(file->info.st_mode)) return false;
  file->path.assign(path, static_cast<size_t>(n));
  return absl::StrContains(file->path, kQueueName);
}

// UCX maps as many bytes as its own queue has: a shorter file would end us with SIGBUS.
absl::Status CheckQueue(std::string_view own, std::string_view peer, uint32_t pid) {
  if (own.size() < sizeof(uint64_t) ||
      own.substr(sizeof(uint64_t)) != peer.substr(sizeof(uint64_t))) {
    return Refuse("a queue of another process namespace or directory");
  }
  const uint64_t mine = Word(own), theirs = Word(peer);
  if ((mine & kQueueFlags) != (theirs & kQueueFlags))
    return Refuse("a queue in shared memory of another kind");
  if ((mine & kQueueInProc) == 0) return absl::OkStatus();
  if ((theirs & kQueueMask) != pid) return Refuse("a queue of another process than its own");
  QueueFile mine_file, their_file;
  if (!FindQueue(mine, &mine_file) || !FindQueue(theirs, &their_file)) {
    return absl::UnavailableError("peer gone: its process has no such queue in shared memory");
  }
  if (mine_file.info.st_size != their_file.info.st_size) {
    return Refuse(absl::StrCat("a queue of ", their_file.info.st_size, " bytes, must be ",
                               mine_file.info.st_size, " as here: UCX's settings differ"));
  }
  return absl::OkStatus();
}

absl::Status CheckTcpDevice(std::string_view device) {
  const bool loopback = device.size() >= kTcpHeadBytes && device[0] == 1;
  if (device.size() < kTcpHeadBytes || (device[0] != 0 && !loopback))
    return Refuse("malformed tcp device");
  size_t bytes = kTcpHeadBytes;
  switch (device[1]) {
    case AF_INET:
      bytes += 4;
      break;
    case AF_INET6:
      bytes += 16;
      break;
    default:
      return Refuse("a tcp device of an unknown address family");
  }
  if (device.size() != (loopback ? kTcpLoopbackBytes : bytes))
    return Refuse("a tcp device of a wrong length");
  return absl::OkStatus();
}

absl::Status CheckEntry(LaneKind lane, const WorkerAddress::Entry& own,
                        const WorkerAddress::Entry& peer, uint32_t pid) {
  if (own.features != peer.features) return Refuse("a transport that is like none of ours");
  if (own.interface.size() != peer.interface.size())
    return Refuse("an interface of a wrong length");
  if (lane == LaneKind::kTcp) {
    if (Word(peer.interface) == 0) return Refuse("no tcp port");
    return CheckTcpDevice(peer.device);
  }
  if (own.device.size() != peer.device.size()) return Refuse("a device of a wrong length");
  if (lane != LaneKind::kShm) return absl::OkStatus();
  if (own.device != peer.device) return Refuse("shared memory of another machine");
  if (own.transport == kPosix) return CheckQueue(own.interface, peer.interface, pid);
  const uint32_t process = static_cast<uint32_t>(Word(peer.interface.substr(0, sizeof(uint32_t))));
  if (process != pid ||
      own.interface.substr(sizeof(uint32_t)) != peer.interface.substr(sizeof(uint32_t))) {
    return Refuse("memory of another process than its own");
  }
  return absl::OkStatus();
}

bool IsOfLane(LaneKind lane, uint16_t transport) {
  switch (lane) {
    case LaneKind::kShm:
      return transport == kPosix || transport == kCma;
    case LaneKind::kTcp:
      return transport == kTcp;
    case LaneKind::kRdma:
      return true;
  }
  return false;
}

}  // namespace

uint32_t UcxVersion() {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  return major << 16 | minor;
}

absl::StatusOr<WorkerAddress> ParseWorkerAddress(std::string_view bytes) {
  Cursor cursor(bytes);
  if (cursor.Get<uint8_t>() != kHeader) return Refuse("not of the format in use");
  WorkerAddress address;
  address.shape = bytes;
  const auto blank = [&](std::string_view piece) {
    std::fill_n(address.shape.begin() + (piece.data() - bytes.data()), piece.size(), '\0');
  };
  address.worker = cursor.Get<uint64_t>();
  blank(bytes.substr(sizeof(kHeader), sizeof(address.worker)));
  bool last_device = false;
  while (!last_device && cursor.whole()) {
    if ((cursor.Get<uint8_t>() & kNoTransports) != 0) return Refuse("a device without transports");
    const auto head = cursor.Get<uint8_t>();
    last_device = (head & kLast) != 0;
    if ((head & kHasPaths) != 0 && cursor.Get<uint8_t>() == 0)
      return Refuse("a device without paths");
    if ((head & kHasSystemDevice) != 0) cursor.Get<uint8_t>();
    const std::string_view device = cursor.Take(head & kDeviceLength);
    if (cursor.whole()) blank(device);
    bool last = false;
    while (!last && cursor.whole()) {
      WorkerAddress::Entry entry{
          .transport = cursor.Get<uint16_t>(), .features = 0, .device = device, .interface = {}};
      const auto overhead = cursor.Get<float>();
      const auto bandwidth = cursor.Get<float>();
      const auto latency = cursor.Get<float>();
      entry.features = cursor.Get<uint32_t>() & kFeatures;
      const auto length = cursor.Get<uint8_t>();
      last = (length & kLast) != 0;
      entry.interface = cursor.Take(length & kInterfaceLength);
      if (!cursor.whole()) break;
      blank(entry.interface);
      if (!Between(overhead, 0, 1) || !Between(latency, 0, 1) || !Between(bandwidth, 1e3f, 1e15f)) {
        return Refuse("costs that no device has");
      }
      if ((length & kHasEndpoints) != 0) return Refuse("it is an endpoint's");
      if (address.entries.size() == kMaxEntries) return Refuse("too many transports");
      address.entries.push_back(entry);
    }
  }
  if (!cursor.finished()) return Refuse(cursor.whole() ? "too many bytes" : "bytes are missing");
  return address;
}

absl::Status CheckWorkerAddress(LaneKind lane, std::string_view own, std::string_view peer,
                                uint32_t pid) {
  VARVE_ASSIGN_OR_RETURN(const WorkerAddress mine, ParseWorkerAddress(own));
  VARVE_ASSIGN_OR_RETURN(const WorkerAddress theirs, ParseWorkerAddress(peer));
  if (theirs.worker == 0 || theirs.worker == mine.worker) return Refuse("not of another worker");
  if (lane == LaneKind::kShm && theirs.shape != mine.shape) {
    return Refuse("other transports or costs than ours on the same machine: UCX's settings differ");
  }
  for (const WorkerAddress::Entry& entry : theirs.entries) {
    if (!IsOfLane(lane, entry.transport))
      return Refuse(absl::StrCat("a transport that is not of the lane ", LaneName(lane)));
    absl::Status status = absl::OkStatus();
    for (const WorkerAddress::Entry& same : mine.entries) {
      if (same.transport != entry.transport) continue;
      status = CheckEntry(lane, same, entry, pid);
      if (status.ok()) break;
    }
    // Transports that only the peer has are of no use to UCX.
    VARVE_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace varve::transport
