#include "kvstore/transport/ucx_endpoint.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/transport/shared_memory.h"

namespace varve::transport {
namespace {

// An inline copy looks after every such piece whether the endpoint still is open and time is left.
constexpr size_t kCopyBytes = 1 << 20;

// True while this thread runs the Done of an inline copy. A Done that posts the next copy then does
// not nest.
thread_local bool t_in_done = false;

class UcxRemoteRegion final : public RemoteRegion {
 public:
  UcxRemoteRegion(std::shared_ptr<Port> port, std::shared_ptr<Connection> connection, size_t bytes,
                  Way way, const RemoteAccess& access, SharedMemory mapped)
      : RemoteRegion(bytes, way),
        port_(std::move(port)),
        connection_(std::move(connection)),
        mapped_(std::move(mapped)),
        access_(access) {}
  ~UcxRemoteRegion() override {
    const ucp_rkey_h key = access_.key;
    if (key != nullptr) {
      port_->lane().RunSync([key] { ucp_rkey_destroy(key); });
    }
  }
  const RemoteAccess& access() const { return access_; }

 private:
  std::shared_ptr<Port> port_;
  std::shared_ptr<Connection> connection_;  // its worker must outlive the key
  SharedMemory mapped_;                     // behind access_.direct
  RemoteAccess access_;
};

// Copies running on callers' threads; the endpoint's destructor waits for them.
class InlineCopies {
 public:
  void Enter() {
    base::MutexLock lock(mutex_);
    ++running_;
  }
  void Leave() {
    base::MutexLock lock(mutex_);
    if (--running_ == 0) idle_.NotifyAll();
  }
  void Wait() {
    base::MutexLock lock(mutex_);
    while (running_ > 0) idle_.Wait(mutex_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar idle_;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
};

class UcxEndpoint final : public Endpoint {
 public:
  UcxEndpoint(std::shared_ptr<Port> port, const UcxAddress& peer, std::unique_ptr<Station> own,
              size_t segment_bytes)
      : port_(std::move(port)),
        peer_(peer.instance),
        peer_pid_(static_cast<pid_t>(peer.pid)),
        connection_(std::make_shared<Connection>(port_->lane(), port_->requester(), std::move(own),
                                                 segment_bytes)) {}

  ~UcxEndpoint() override {
    Close();
    connection_->WaitUntilClosed();
    copies_->Wait();
  }

  absl::Status Open(const std::string& worker_address, absl::Duration timeout) {
    port_->lane().Post([connection = connection_, worker_address, pid = peer_pid_, timeout] {
      connection->Open(worker_address, static_cast<uint32_t>(pid), timeout);
    });
    return connection_->WaitUntilOpen();
  }

  absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(const std::string& descriptor) override {
    const auto decoded = DecodeDescriptor(descriptor);
    if (!decoded.ok()) return decoded.status();
    if (decoded->instance != peer_)
      return absl::InvalidArgumentError("region descriptor of another peer");
    RemoteAccess access{decoded->region, decoded->address};
    SharedMemory mapped;
    for (const auto& lane_key : decoded->keys) {
      if (lane_key.kind != port_->lane().kind()) continue;
      if (lane_key.kind == LaneKind::kRdma && access.key == nullptr)
        access.key = connection_->UnpackKey(lane_key.key);
      if (lane_key.kind != LaneKind::kShm) continue;
      auto attached = SharedMemory::Attach(peer_pid_, lane_key.key, decoded->bytes);
      // Memory that may not be mapped still is reached by messages.
      if (absl::IsUnavailable(attached.status())) continue;
      if (!attached.ok()) return attached.status();
      mapped = *std::move(attached);
      access.direct = mapped.span().data();
    }
    RemoteRegion::Way way = RemoteRegion::Way::kDirect;
    if (access.direct != nullptr) {
      way = RemoteRegion::Way::kMapped;
    } else if (port_->lane().kind() == LaneKind::kTcp) {
      way = RemoteRegion::Way::kCopied;
    }
    return std::make_unique<UcxRemoteRegion>(port_, connection_, decoded->bytes, way, access,
                                             std::move(mapped));
  }

  void Close() override { Close(connection_); }
  absl::Status Health() const override { return connection_->health(); }
  const char* lane() const override { return port_->lane().name(); }

 private:
  static void Close(const std::shared_ptr<Connection>& connection) {
    if (connection->Leave()) connection->lane().Post([connection] { connection->SayGoodbye(); });
  }

  void DoRead(std::vector<Segment> segments, absl::Time deadline, Done done) override {
    Start(true, std::move(segments), deadline, std::move(done));
  }
  void DoWrite(std::vector<Segment> segments, absl::Time deadline, Done done) override {
    Start(false, std::move(segments), deadline, std::move(done));
  }

  static const RemoteAccess& Access(const Segment& segment) {
    return static_cast<const UcxRemoteRegion*>(segment.remote)->access();
  }

  // Memory that is mapped here is copied by the caller's thread: it scales with the callers and
  // needs no wake-up.
  void Start(bool read, std::vector<Segment> segments, absl::Time deadline, Done done) {
    Transfer transfer{.read = read, .parts = {}, .deadline = deadline, .done = std::move(done)};
    bool direct = false;
    for (const Segment& segment : segments) {
      if (segment.local.empty()) continue;
      if (Access(segment).direct != nullptr) {
        direct = true;
      } else {
        Copier* copier =
            segment.remote->way() == RemoteRegion::Way::kCopied ? segment.copier : nullptr;
        transfer.parts.push_back({segment.local, &Access(segment), segment.remote_offset, copier});
      }
    }
    if (!direct && transfer.parts.empty()) return std::move(transfer.done)(absl::OkStatus());
    if (!direct) return Submit(connection_, std::move(transfer));
    copies_->Enter();
    if (!t_in_done) {
      return CopyAndSubmit(connection_, copies_, segments, std::move(transfer));
    }
    port_->lane().Post([connection = connection_, copies = copies_, segments = std::move(segments),
                        transfer = std::move(transfer)]() mutable {
      CopyAndSubmit(connection, copies, segments, std::move(transfer));
    });
  }

  static void CopyAndSubmit(const std::shared_ptr<Connection>& connection,
                            const std::shared_ptr<InlineCopies>& copies,
                            const std::vector<Segment>& segments, Transfer transfer) {
    absl::Status status = CopyDirect(connection, segments, transfer);
    if (status.ok() && !transfer.parts.empty()) {
      Submit(connection, std::move(transfer));
    } else {
      const bool nested = std::exchange(t_in_done, true);
      std::move(transfer.done)(std::move(status));
      // What it captured is gone before the endpoint's destructor may return.
      transfer.done = nullptr;
      t_in_done = nested;
    }
    copies->Leave();
  }

  static absl::Status CopyDirect(const std::shared_ptr<Connection>& connection,
                                 const std::vector<Segment>& segments, const Transfer& transfer) {
    if (absl::Now() > transfer.deadline) {
      return absl::DeadlineExceededError("deadline passed before the transfer began");
    }
    size_t copied = 0;
    for (const Segment& segment : segments) {
      std::byte* direct = Access(segment).direct;
      if (direct == nullptr) continue;
      for (size_t at = 0; at < segment.local.size(); at += kCopyBytes) {
        if (!connection->open()) return connection->health();
        if (copied > 0 && absl::Now() > transfer.deadline) {
          Close(connection);
          return absl::DeadlineExceededError(
              absl::StrCat("deadline passed after ", copied, " bytes were copied"));
        }
        const size_t bytes = std::min(kCopyBytes, segment.local.size() - at);
        std::byte* local = segment.local.data() + at;
        std::byte* remote = direct + segment.remote_offset + at;
        CopyWith(segment.copier, transfer.read ? local : remote, transfer.read ? remote : local,
                 bytes);
        copied += bytes;
      }
    }
    return absl::OkStatus();
  }

  static void Submit(const std::shared_ptr<Connection>& connection, Transfer transfer) {
    connection->lane().Post([connection, transfer = std::move(transfer)]() mutable {
      connection->Submit(std::move(transfer));
    });
  }

  const std::shared_ptr<Port> port_;
  const uint64_t peer_;
  const pid_t peer_pid_;
  const std::shared_ptr<Connection> connection_;
  const std::shared_ptr<InlineCopies> copies_ = std::make_shared<InlineCopies>();
};

}  // namespace

absl::StatusOr<std::unique_ptr<Endpoint>> ConnectUcx(std::shared_ptr<Port> port,
                                                     const UcxAddress& peer,
                                                     const std::string& worker_address,
                                                     size_t segment_bytes, absl::Duration timeout) {
  // Over shared memory a dead peer may leave rubbish in what its station shares with ours. Over tcp
  // UCX pairs the k-th endpoints of two workers to each other on one socket: with several
  // connections to one peer, closing one would cut another.
  std::unique_ptr<Station> own;
  if (port->lane().kind() != LaneKind::kRdma) {
    auto opened = port->lane().OpenStation();
    if (!opened.ok()) return opened.status();
    own = *std::move(opened);
  }
  auto endpoint =
      std::make_unique<UcxEndpoint>(std::move(port), peer, std::move(own), segment_bytes);
  const absl::Status status = endpoint->Open(worker_address, timeout);
  if (!status.ok()) return status;
  return endpoint;
}

}  // namespace varve::transport
