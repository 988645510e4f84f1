#include "kvstore/transport/loopback.h"

#include <cstring>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/transport/host_memory.h"
#include "kvstore/transport/region_table.h"
#include "kvstore/transport/wire.h"

namespace varve::transport {
namespace {

constexpr uint32_t kAddressMagic = 0x31414c56;     // "VLA1"
constexpr uint32_t kDescriptorMagic = 0x31524c56;  // "VLR1"

// The live loopback transports of this process.
class Peers {
 public:
  static Peers& Get() {
    static Peers* peers = new Peers;  // leaked: transports may outlive statics
    return *peers;
  }
  void Add(uint64_t id, std::shared_ptr<RegionTable> regions) {
    base::MutexLock lock(mutex_);
    tables_[id] = std::move(regions);
  }
  void Remove(uint64_t id) {
    base::MutexLock lock(mutex_);
    tables_.erase(id);
  }
  // Null when the transport is gone.
  std::shared_ptr<RegionTable> Find(uint64_t id) {
    base::MutexLock lock(mutex_);
    const auto it = tables_.find(id);
    return it == tables_.end() ? nullptr : it->second;
  }

 private:
  base::Mutex mutex_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<RegionTable>> tables_ ABSL_GUARDED_BY(mutex_);
};

class LoopbackRegion final : public Region {
 public:
  LoopbackRegion(HostMemory owned, std::span<std::byte> memory, std::shared_ptr<RegionTable> table,
                 uint64_t id, std::string descriptor)
      : Region(memory, std::move(descriptor)),
        owned_(std::move(owned)),
        table_(std::move(table)),
        id_(id) {}
  ~LoopbackRegion() override {
    while (!table_->Remove(id_, absl::Seconds(1))) {
    }
  }

 private:
  HostMemory owned_;  // empty for the caller's memory
  std::shared_ptr<RegionTable> table_;
  uint64_t id_;
};

class LoopbackRemoteRegion final : public RemoteRegion {
 public:
  LoopbackRemoteRegion(uint64_t id, size_t bytes) : RemoteRegion(bytes, Way::kCopied), id_(id) {}
  uint64_t id() const { return id_; }

 private:
  uint64_t id_;
};

// What an endpoint shares with its transfers under way.
struct Link {
  base::Mutex mutex;
  base::CondVar idle;
  bool closed ABSL_GUARDED_BY(mutex) = false;
  int outstanding ABSL_GUARDED_BY(mutex) = 0;
};

class LoopbackEndpoint final : public Endpoint {
 public:
  LoopbackEndpoint(uint64_t peer, base::Executor& executor) : peer_(peer), executor_(executor) {}
  ~LoopbackEndpoint() override {
    Close();
    base::MutexLock lock(link_->mutex);
    while (link_->outstanding > 0) link_->idle.Wait(link_->mutex);
  }

  absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(const std::string& descriptor) override {
    WireReader reader(descriptor);
    const auto magic = reader.Get<uint32_t>();
    const auto peer = reader.Get<uint64_t>();
    const auto id = reader.Get<uint64_t>();
    const auto bytes = reader.Get<uint64_t>();
    if (!reader.Finished() || magic != kDescriptorMagic) {
      return absl::InvalidArgumentError("bytes are no loopback region descriptor");
    }
    if (peer != peer_) return absl::InvalidArgumentError("region descriptor of another peer");
    return std::make_unique<LoopbackRemoteRegion>(id, bytes);
  }

  void Close() override {
    base::MutexLock lock(link_->mutex);
    link_->closed = true;
  }

  absl::Status Health() const override {
    base::MutexLock lock(link_->mutex);
    if (link_->closed) return absl::CancelledError("endpoint closed");
    if (Peers::Get().Find(peer_) == nullptr) return absl::UnavailableError("peer gone");
    return absl::OkStatus();
  }

  const char* lane() const override { return "loopback"; }

 private:
  void DoRead(std::vector<Segment> segments, absl::Time deadline, Done done) override {
    Post(true, std::move(segments), deadline, std::move(done));
  }
  void DoWrite(std::vector<Segment> segments, absl::Time deadline, Done done) override {
    Post(false, std::move(segments), deadline, std::move(done));
  }

  void Post(bool read, std::vector<Segment> segments, absl::Time deadline, Done done) {
    {
      base::MutexLock lock(link_->mutex);
      ++link_->outstanding;
    }
    executor_.Run([link = link_, peer = peer_, read, segments = std::move(segments), deadline,
                   done = std::move(done)]() mutable {
      std::move(done)(Move(*link, peer, read, segments, deadline));
      done = nullptr;  // what it captured is gone before the endpoint's destructor may return
      base::MutexLock lock(link->mutex);
      if (--link->outstanding == 0) link->idle.NotifyAll();
    });
  }

  static absl::Status Move(Link& link, uint64_t peer, bool read,
                           const std::vector<Segment>& segments, absl::Time deadline) {
    if (absl::Now() > deadline)
      return absl::DeadlineExceededError("deadline passed before the transfer began");
    for (const Segment& segment : segments) {
      {
        base::MutexLock lock(link.mutex);
        if (link.closed) return absl::CancelledError("endpoint closed");
      }
      const std::shared_ptr<RegionTable> table = Peers::Get().Find(peer);
      if (table == nullptr) return absl::UnavailableError("peer gone");
      const auto& remote = static_cast<const LoopbackRemoteRegion&>(*segment.remote);
      const auto memory = table->Pin(remote.id(), segment.remote_offset, segment.local.size());
      if (!memory.ok()) return memory.status();
      std::byte* local = segment.local.data();
      CopyWith(segment.copier, read ? local : *memory, read ? *memory : local,
               segment.local.size());
      table->Unpin(remote.id());
    }
    return absl::OkStatus();
  }

  const uint64_t peer_;
  base::Executor& executor_;
  const std::shared_ptr<Link> link_ = std::make_shared<Link>();
};

class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport() { Peers::Get().Add(id_, regions_); }
  ~LoopbackTransport() override { Peers::Get().Remove(id_); }

  const char* name() const override { return "loopback"; }

  std::string Address() const override {
    WireWriter writer;
    writer.Put(kAddressMagic);
    writer.Put(id_);
    return std::move(writer).Seal();
  }

  absl::StatusOr<std::unique_ptr<Region>> Register(std::span<std::byte> memory) override {
    if (memory.data() == nullptr || memory.empty())
      return absl::InvalidArgumentError("cannot register empty memory");
    return MakeRegion(HostMemory(), memory);
  }

  absl::StatusOr<std::unique_ptr<Region>> Allocate(size_t bytes) override {
    auto memory = HostMemory::Allocate(bytes);
    if (!memory.ok()) return memory.status();
    const std::span<std::byte> span = memory->span();
    return MakeRegion(*std::move(memory), span);
  }

 private:
  absl::StatusOr<std::unique_ptr<Endpoint>> DoConnect(const std::string& address,
                                                      absl::Duration /*timeout*/) override {
    WireReader reader(address);
    const auto magic = reader.Get<uint32_t>();
    const auto peer = reader.Get<uint64_t>();
    if (!reader.Finished() || magic != kAddressMagic) {
      return absl::InvalidArgumentError("bytes are no loopback address");
    }
    if (Peers::Get().Find(peer) == nullptr)
      return absl::UnavailableError("no such loopback peer in this process");
    return std::make_unique<LoopbackEndpoint>(peer, executor_);
  }

  std::unique_ptr<Region> MakeRegion(HostMemory owned, std::span<std::byte> memory) {
    const uint64_t region = regions_->Add(memory);
    WireWriter writer;
    writer.Put(kDescriptorMagic);
    writer.Put(id_);
    writer.Put(region);
    writer.Put<uint64_t>(memory.size());
    return std::make_unique<LoopbackRegion>(std::move(owned), memory, regions_, region,
                                            std::move(writer).Seal());
  }

  const uint64_t id_ = RandomId();
  const std::shared_ptr<RegionTable> regions_ = std::make_shared<RegionTable>();
  base::ThreadPool executor_{"loopback", 1};
};

}  // namespace

std::unique_ptr<Transport> MakeLoopbackTransport() { return std::make_unique<LoopbackTransport>(); }

}  // namespace varve::transport
