#include "kvstore/transport/ucx_protocol.h"

#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/transport/wire.h"

namespace varve::transport {
namespace {

constexpr uint32_t kAddressMagic = 0x32415856;     // "VXA2"
constexpr uint32_t kDescriptorMagic = 0x31525856;  // "VXR1"
constexpr uint8_t kMaxLanes = 8;

uint64_t Inode(const char* path) {
  struct stat info {};
  return stat(path, &info) == 0 ? info.st_ino : 0;
}

bool IsLane(uint8_t kind) {
  return kind >= static_cast<uint8_t>(LaneKind::kShm) &&
         kind <= static_cast<uint8_t>(LaneKind::kRdma);
}

// One lane's kind and its bytes; false when malformed.
bool GetLane(WireReader& reader, LaneKind* kind, std::string* bytes) {
  const auto number = reader.Get<uint8_t>();
  *bytes = std::string(reader.GetString());
  *kind = static_cast<LaneKind>(number);
  return reader.ok() && IsLane(number) && !bytes->empty();
}

}  // namespace

const char* LaneName(LaneKind kind) {
  switch (kind) {
    case LaneKind::kShm:
      return "shm";
    case LaneKind::kTcp:
      return "tcp";
    case LaneKind::kRdma:
      return "rdma";
  }
  return "unknown";
}

absl::StatusOr<LaneKind> ParseLane(std::string_view name) {
  for (LaneKind kind : {LaneKind::kShm, LaneKind::kTcp, LaneKind::kRdma}) {
    if (name == LaneName(kind)) return kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown transport lane '", std::string(name), "', known: shm, tcp, rdma"));
}

const HostIdentity& HostIdentity::Mine() {
  static const HostIdentity mine = [] {
    HostIdentity host;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> host.boot_id;
    host.ipc_namespace = Inode("/proc/self/ns/ipc");
    host.pid_namespace = Inode("/proc/self/ns/pid");
    return host;
  }();
  return mine;
}

std::string Encode(const UcxAddress& address) {
  WireWriter writer;
  writer.Put(kAddressMagic);
  writer.Put(address.instance);
  writer.Put(address.ucx_version);
  writer.PutString(address.host.boot_id);
  writer.Put(address.host.ipc_namespace);
  writer.Put(address.host.pid_namespace);
  writer.Put(address.pid);
  writer.Put(static_cast<uint8_t>(address.lanes.size()));
  for (const auto& lane : address.lanes) {
    writer.Put(static_cast<uint8_t>(lane.kind));
    writer.PutString(lane.worker);
  }
  return std::move(writer).Seal();
}

absl::StatusOr<UcxAddress> DecodeAddress(std::string_view bytes) {
  WireReader reader(bytes);
  const bool magic = reader.Get<uint32_t>() == kAddressMagic;
  UcxAddress address;
  address.instance = reader.Get<uint64_t>();
  address.ucx_version = reader.Get<uint32_t>();
  address.host.boot_id = std::string(reader.GetString());
  address.host.ipc_namespace = reader.Get<uint64_t>();
  address.host.pid_namespace = reader.Get<uint64_t>();
  address.pid = reader.Get<uint32_t>();
  const auto lanes = reader.Get<uint8_t>();
  bool good = magic && lanes <= kMaxLanes;
  for (int i = 0; good && i < lanes; ++i) {
    auto& lane = address.lanes.emplace_back();
    good = GetLane(reader, &lane.kind, &lane.worker);
  }
  if (!good || !reader.Finished())
    return absl::InvalidArgumentError("bytes are no address of the ucx transport");
  return address;
}

std::string Encode(const UcxDescriptor& descriptor) {
  WireWriter writer;
  writer.Put(kDescriptorMagic);
  writer.Put(descriptor.instance);
  writer.Put(descriptor.region);
  writer.Put(descriptor.address);
  writer.Put(descriptor.bytes);
  writer.Put(static_cast<uint8_t>(descriptor.keys.size()));
  for (const auto& key : descriptor.keys) {
    writer.Put(static_cast<uint8_t>(key.kind));
    writer.PutString(key.key);
  }
  return std::move(writer).Seal();
}

absl::StatusOr<UcxDescriptor> DecodeDescriptor(std::string_view bytes) {
  WireReader reader(bytes);
  const bool magic = reader.Get<uint32_t>() == kDescriptorMagic;
  UcxDescriptor descriptor;
  descriptor.instance = reader.Get<uint64_t>();
  descriptor.region = reader.Get<uint64_t>();
  descriptor.address = reader.Get<uint64_t>();
  descriptor.bytes = reader.Get<uint64_t>();
  const auto keys = reader.Get<uint8_t>();
  if (magic && reader.ok() && (descriptor.bytes == 0 || descriptor.bytes > kMaxRegionBytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("region of ", descriptor.bytes, " bytes; allowed: 1 to ", kMaxRegionBytes));
  }
  bool good = magic && keys <= kMaxLanes && descriptor.address <= UINT64_MAX - descriptor.bytes;
  for (int i = 0; good && i < keys; ++i) {
    auto& key = descriptor.keys.emplace_back();
    good = GetLane(reader, &key.kind, &key.key);
  }
  if (!good || !reader.Finished()) {
    return absl::InvalidArgumentError("bytes are no region descriptor of the ucx transport");
  }
  return descriptor;
}

Message MakeMessage(MessageType type, uint64_t session, uint64_t request) {
  Message message;
  message.head = {kMessageMagic, static_cast<uint8_t>(type), 0, 0, session, request};
  return message;
}

bool ParseMessage(const void* header, size_t bytes, Message* message) {
  if (bytes < sizeof(MessageHead) || bytes > sizeof(Message)) return false;
  std::memcpy(&message->head, header, sizeof(MessageHead));
  const MessageHead& head = message->head;
  if (head.magic != kMessageMagic || head.pieces > kMaxPieces || bytes != message->bytes())
    return false;
  std::memcpy(message->pieces, static_cast<const char*>(header) + sizeof(MessageHead),
              bytes - sizeof(MessageHead));
  return true;
}

}  // namespace varve::transport
