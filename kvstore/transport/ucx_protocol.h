// Bytes of the UCX transport: address, region descriptor, and the active messages between the side
// that drives (the store) and the side that answers (the client). docs/protocol.md describes the
// exchange.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace varve::transport {

enum class LaneKind : uint8_t { kShm = 1, kTcp = 2, kRdma = 3 };
// "shm", "tcp", "rdma"
const char* LaneName(LaneKind kind);
// INVALID_ARGUMENT naming the known lanes.
absl::StatusOr<LaneKind> ParseLane(std::string_view name);

// Where this process can be reached by shared memory: same kernel boot and same namespaces.
struct HostIdentity {
  std::string boot_id;
  uint64_t ipc_namespace = 0;
  uint64_t pid_namespace = 0;
  static const HostIdentity& Mine();
  friend bool operator==(const HostIdentity&, const HostIdentity&) = default;
};

struct UcxAddress {
  struct LaneAddress {
    LaneKind kind;
    std::string worker;  // bytes of ucp_worker_get_address
  };
  uint64_t instance = 0;     // random, one per transport
  uint32_t ucx_version = 0;  // of UcxVersion
  HostIdentity host;
  uint32_t pid = 0;
  std::vector<LaneAddress> lanes;
};
std::string Encode(const UcxAddress& address);
// INVALID_ARGUMENT for anything Encode did not make.
absl::StatusOr<UcxAddress> DecodeAddress(std::string_view bytes);

struct UcxDescriptor {
  struct LaneKey {
    LaneKind kind;
    std::string key;  // shm: of SharedMemory; rdma: bytes of ucp_rkey_pack
  };
  uint64_t instance = 0;  // of the transport that owns the region
  uint64_t region = 0;
  uint64_t address = 0;  // in the owner's address space
  uint64_t bytes = 0;
  std::vector<LaneKey> keys;  // lanes on which the region is one-sided
};
// No region is larger: sums of sizes cannot overflow.
constexpr uint64_t kMaxRegionBytes = uint64_t{1} << 40;
std::string Encode(const UcxDescriptor& descriptor);
// INVALID_ARGUMENT for anything Encode did not make, and for a region of 0 or more than
// kMaxRegionBytes bytes.
absl::StatusOr<UcxDescriptor> DecodeDescriptor(std::string_view bytes);

// ---- active messages
// ------------------------------------------------------------------------------
constexpr unsigned kMessageId = 1;  // the one UCX active message id in use
constexpr uint32_t kMessageMagic = 0x314d5856;
constexpr size_t kMaxPieces = 64;

enum class MessageType : uint8_t {
  kHello = 1,    // driver -> answerer; request: the driver's pid; data: its worker address
  kWelcome = 2,  // answer to kHello
  kBye = 3,      // driver -> answerer: the session is over
  kRead = 4,     // driver -> answerer; pieces; answered by kData or a failed kAck
  kData = 5,     // the bytes of all pieces of a kRead, in order
  kWrite = 6,    // driver -> answerer; pieces; data: their bytes
  kAck = 7,      // answer to kWrite, and to a kRead that failed
};

struct Piece {
  uint64_t region;
  uint64_t offset;
  uint64_t length;
};

struct MessageHead {
  uint32_t magic;
  uint8_t type;
  uint8_t status;  // of kAck: an absl::StatusCode
  uint16_t pieces;
  uint64_t session;  // random, chosen by the driver
  uint64_t request;
};

// The UCX active message header: a head and its pieces, as they lie in memory.
struct Message {
  MessageHead head;
  Piece pieces[kMaxPieces];

  size_t bytes() const { return sizeof(head) + head.pieces * sizeof(Piece); }
};
static_assert(sizeof(MessageHead) == 24 && sizeof(Piece) == 24);

Message MakeMessage(MessageType type, uint64_t session, uint64_t request);
// Copies a received header; false when it is malformed.
bool ParseMessage(const void* header, size_t bytes, Message* message);

}  // namespace varve::transport
