// How bytes travel between a client's registered memory and the store. The store drives every
// transfer.
//
// One interface for both sides. A client registers memory and hands (address, region descriptors)
// to the store through the control plane; the store connects an Endpoint back to the client and
// reads from or writes into the regions. No side ever holds write access to the store's memory.
//
// Threads: every method may be called from any thread. Done callbacks run on a transport thread or,
// when the memory is mapped into this process, on the caller's, inside the call; exactly once,
// never under a transport lock. They may post and Close, but must not block and must not Connect.
// Connect and Import may block for a while. Ownership: Regions and Endpoints must be destroyed
// before their Transport. A Region unregisters its memory on destruction, and waits for transfers
// under way (a second at most; then it ends the sessions that hold it up); the memory given to
// Register must outlive it. Local buffers of a transfer belong to the transport until Done. Errors:
// UNAVAILABLE peer gone, or its region; DEADLINE_EXCEEDED peer stalled (the endpoint is then
// closed: a late write may still land in the client's memory, never in the store's), or the
// deadline was over before the transfer began (the endpoint stays open); OUT_OF_RANGE outside the
// remote region; INVALID_ARGUMENT malformed descriptor; CANCELLED endpoint closed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace varve::transport {

using Done = absl::AnyInvocable<void(absl::Status) &&>;

// Registered memory of this process. Non-copyable RAII.
class Region {
 public:
  virtual ~Region() = default;
  std::span<std::byte> memory() const { return memory_; }
  // Opaque bytes by which the peer reaches this memory (lane-specific keys, region id, length).
  const std::string& descriptor() const { return descriptor_; }

 protected:
  Region(std::span<std::byte> memory, std::string descriptor)
      : memory_(memory), descriptor_(std::move(descriptor)) {}

 private:
  std::span<std::byte> memory_;
  std::string descriptor_;
};

// A peer's region as the store sees it, parsed from its descriptor by an Endpoint and of use to
// that one alone. It must live until the Done of every transfer that names it, and may be destroyed
// before or after its Endpoint.
class RemoteRegion {
 public:
  virtual ~RemoteRegion() = default;
  // How its bytes travel.
  enum class Way {
    kMapped,  // mapped into this process: copied on the thread that calls Read or Write
    kCopied,  // by messages, which a transport thread copies
    kDirect,  // by the network device, or the kernel
  };

  size_t bytes() const { return bytes_; }
  Way way() const { return way_; }

 protected:
  RemoteRegion(size_t bytes, Way way) : bytes_(bytes), way_(way) {}

 private:
  size_t bytes_;
  Way way_;
};

// Takes memcpy's place where the processor copies (kMapped, kCopied), to compute a checksum in the
// same pass.
class Copier {
 public:
  // Any piece of the segment, in any order, possibly one twice. One call at a time for all segments
  // of a transfer. Local memory is `to` in a Read and `from` in a Write. The peer may write to its
  // side at any time.
  virtual void Copy(void* to, const void* from, size_t bytes) = 0;

 protected:
  ~Copier() = default;
};

// Copies with the copier, or with memcpy when there is none.
void CopyWith(Copier* copier, void* to, const void* from, size_t bytes);

// One piece of a transfer.
struct Segment {
  std::span<std::byte> local;
  const RemoteRegion* remote = nullptr;
  size_t remote_offset = 0;
  Copier* copier = nullptr;  // must live until Done; null: memcpy
};

// The store's connection to one client. Destroying it closes it: outstanding transfers end with
// CANCELLED and their Dones have all run when the destructor returns (so it must not be called from
// a Done).
class Endpoint {
 public:
  virtual ~Endpoint() = default;

  // INVALID_ARGUMENT when the descriptor is malformed or was made by another kind of transport.
  virtual absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(const std::string& descriptor) = 0;

  // Reads remote -> local (a client's put) or writes local -> remote (a client's get), all
  // segments, in any order. Done means remotely complete: for Read the bytes are in local, for
  // Write they are visible to the peer's CPU. Bounds are checked here: a segment outside its region
  // fails the whole transfer with OUT_OF_RANGE before any byte moves.
  void Read(std::vector<Segment> segments, absl::Time deadline, Done done);
  void Write(std::vector<Segment> segments, absl::Time deadline, Done done);

  // Closes, from any thread; safe in a Done. Nothing begins after it; outstanding transfers end
  // with CANCELLED soon.
  virtual void Close() = 0;
  // OK while the peer is believed alive.
  virtual absl::Status Health() const = 0;
  // Lane actually used: "loopback", "shm", "tcp", "rdma"; a label of metrics.
  virtual const char* lane() const = 0;

 private:
  virtual void DoRead(std::vector<Segment> segments, absl::Time deadline, Done done) = 0;
  virtual void DoWrite(std::vector<Segment> segments, absl::Time deadline, Done done) = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;

  // "loopback", "ucx"
  virtual const char* name() const = 0;
  // What a peer passes to Connect: opaque bytes naming this process's lanes.
  virtual std::string Address() const = 0;

  // Registers the caller's memory. INVALID_ARGUMENT for empty or null memory.
  virtual absl::StatusOr<std::unique_ptr<Region>> Register(std::span<std::byte> memory) = 0;
  // Allocates memory of the transport's fastest kind (for shared memory: truly one-sided), zeroed
  // and pre-faulted.
  virtual absl::StatusOr<std::unique_ptr<Region>> Allocate(size_t bytes) = 0;

  // Connects to a peer's Address(), within `timeout` and the transport's own limits.
  // INVALID_ARGUMENT for bytes that are no address of this transport, FAILED_PRECONDITION without a
  // lane in common, UNAVAILABLE when the peer does not answer in time.
  absl::StatusOr<std::unique_ptr<Endpoint>> Connect(
      const std::string& address, absl::Duration timeout = absl::InfiniteDuration()) {
    return DoConnect(address, timeout);
  }

 private:
  virtual absl::StatusOr<std::unique_ptr<Endpoint>> DoConnect(const std::string& address,
                                                              absl::Duration timeout) = 0;
};

}  // namespace varve::transport
