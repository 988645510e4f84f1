#include "kvstore/transport/ucx.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/transport/host_memory.h"
#include "kvstore/transport/region_table.h"
#include "kvstore/transport/shared_memory.h"
#include "kvstore/transport/ucx_endpoint.h"
#include "kvstore/transport/ucx_handles.h"
#include "kvstore/transport/ucx_port.h"
#include "kvstore/transport/ucx_protocol.h"
#include "kvstore/transport/ucx_worker_address.h"
#include "kvstore/transport/wire.h"

namespace varve::transport {
namespace {

constexpr size_t kMinSegmentBytes = 4 << 10;
constexpr size_t kMaxSegmentBytes = 64 << 20;
// Operations on a region that is going away may end by themselves for this long.
constexpr absl::Duration kUnregisterGrace = absl::Seconds(1);

using Ports = std::vector<std::shared_ptr<Port>>;

// What regions share with their transport.
struct Shared {
  RegionTable regions;
  Ports ports;  // in order of preference; constant after construction
};

// The memory behind a region, unless it is the caller's; and its registrations.
struct Backing {
  HostMemory host;
  SharedMemory shared;
  std::vector<UcxMemory> mapped;
  std::vector<UcxDescriptor::LaneKey> keys;
};

class UcxRegion final : public Region {
 public:
  UcxRegion(std::shared_ptr<Shared> shared, Backing backing, std::span<std::byte> memory,
            uint64_t id, std::string descriptor)
      : Region(memory, std::move(descriptor)),
        shared_(std::move(shared)),
        backing_(std::move(backing)),
        id_(id) {}
  ~UcxRegion() override {
    while (!shared_->regions.Remove(id_, kUnregisterGrace)) {
      for (const auto& port : shared_->ports) port->CloseSessions(id_);
    }
  }

 private:
  std::shared_ptr<Shared> shared_;
  Backing backing_;
  uint64_t id_;
};

std::string VersionText(uint32_t version) {
  return absl::StrCat(version >> 16, ".", version & 0xffff);
}

class UcxTransport final : public Transport {
 public:
  UcxTransport(std::shared_ptr<Shared> shared, const UcxOptions& options)
      : shared_(std::move(shared)), options_(options) {}
  ~UcxTransport() override {
    for (const auto& port : shared_->ports) port->Close();
  }

  const char* name() const override { return "ucx"; }

  std::string Address() const override {
    UcxAddress address{
        instance_, UcxVersion(), HostIdentity::Mine(), static_cast<uint32_t>(getpid()), {}};
    for (const auto& port : shared_->ports) {
      address.lanes.push_back({port->lane().kind(), port->lane().station().address()});
    }
    return Encode(address);
  }

  absl::StatusOr<std::unique_ptr<Region>> Register(std::span<std::byte> memory) override {
    if (memory.data() == nullptr || memory.empty())
      return absl::InvalidArgumentError("cannot register empty memory");
    Backing backing;
    VARVE_RETURN_IF_ERROR(MapForRdma(memory, &backing));
    return MakeRegion(std::move(backing), memory);
  }

  absl::StatusOr<std::unique_ptr<Region>> Allocate(size_t bytes) override {
    if (bytes == 0) return absl::InvalidArgumentError("cannot allocate 0 bytes");
    Backing backing;
    VARVE_ASSIGN_OR_RETURN(const std::span<std::byte> memory, AllocateBacking(bytes, &backing));
    VARVE_RETURN_IF_ERROR(MapForRdma(memory, &backing));
    return MakeRegion(std::move(backing), memory);
  }

 private:
  absl::StatusOr<std::unique_ptr<Endpoint>> DoConnect(const std::string& bytes,
                                                      absl::Duration timeout) override {
    const absl::Time end = absl::Now() + timeout;
    VARVE_ASSIGN_OR_RETURN(const UcxAddress address, DecodeAddress(bytes));
    if (address.ucx_version != UcxVersion()) {
      return absl::InvalidArgumentError(
          absl::StrCat("peer uses UCX ", VersionText(address.ucx_version),
                       ", must be as here: ", VersionText(UcxVersion())));
    }
    const std::vector<Way> ways = WaysTo(address);
    if (ways.empty()) return NoLaneTo(address);
    std::string failures;
    for (size_t i = 0; i < ways.size(); ++i) {
      // A peer that is silent over one lane leaves time for the others.
      const absl::Duration share = (end - absl::Now()) / static_cast<int64_t>(ways.size() - i);
      auto endpoint = ConnectUcx(ways[i].port, address, ways[i].peer->worker,
                                 options_.segment_bytes, std::min(share, options_.connect_timeout));
      if (endpoint.ok() || absl::IsInvalidArgument(endpoint.status())) return endpoint;
      absl::StrAppend(&failures, failures.empty() ? "" : "; ", endpoint.status().message());
    }
    return absl::UnavailableError(failures);
  }

  struct Way {
    std::shared_ptr<Port> port;
    const UcxAddress::LaneAddress* peer;
  };
  // In our order of preference. Points into the address.
  std::vector<Way> WaysTo(const UcxAddress& address) const {
    std::vector<Way> ways;
    for (const auto& port : shared_->ports) {
      for (const auto& lane : address.lanes) {
        if (lane.kind != port->lane().kind()) continue;
        if (lane.kind == LaneKind::kShm && !(address.host == HostIdentity::Mine())) continue;
        ways.push_back({port, &lane});
      }
    }
    return ways;
  }

  absl::Status NoLaneTo(const UcxAddress& address) const {
    std::vector<std::string> ours, theirs;
    for (const auto& port : shared_->ports) ours.emplace_back(port->lane().name());
    for (const auto& lane : address.lanes) theirs.emplace_back(LaneName(lane.kind));
    const char* apart =
        address.host == HostIdentity::Mine() ? "" : " (shm needs the same host and namespaces)";
    return absl::FailedPreconditionError(absl::StrCat("no lane in common: here ",
                                                      absl::StrJoin(ours, ", "), ", at the peer ",
                                                      absl::StrJoin(theirs, ", "), apart));
  }

  Port* FindPort(LaneKind kind) const {
    for (const auto& port : shared_->ports) {
      if (port->lane().kind() == kind) return port.get();
    }
    return nullptr;
  }

  absl::Status MapForRdma(std::span<std::byte> memory, Backing* backing) const {
    Port* rdma = FindPort(LaneKind::kRdma);
    if (rdma == nullptr) return absl::OkStatus();
    VARVE_ASSIGN_OR_RETURN(UcxMemory mapped,
                           UcxMemory::Map(rdma->lane().context(), memory.data(), memory.size()));
    VARVE_ASSIGN_OR_RETURN(std::string key, mapped.PackKey());
    backing->keys.push_back({LaneKind::kRdma, std::move(key)});
    backing->mapped.push_back(std::move(mapped));
    return absl::OkStatus();
  }

  // Shared memory where there is that lane, else anonymous memory.
  absl::StatusOr<std::span<std::byte>> AllocateBacking(size_t bytes, Backing* backing) const {
    if (FindPort(LaneKind::kShm) == nullptr) {
      VARVE_ASSIGN_OR_RETURN(backing->host, HostMemory::Allocate(bytes));
      return backing->host.span();
    }
    VARVE_ASSIGN_OR_RETURN(backing->shared, SharedMemory::Allocate(bytes));
    backing->keys.push_back({LaneKind::kShm, backing->shared.Key()});
    return backing->shared.span();
  }

  std::unique_ptr<Region> MakeRegion(Backing backing, std::span<std::byte> memory) {
    const uint64_t id = shared_->regions.Add(memory);
    UcxDescriptor descriptor{instance_, id, reinterpret_cast<uint64_t>(memory.data()),
                             memory.size(), backing.keys};
    return std::make_unique<UcxRegion>(shared_, std::move(backing), memory, id, Encode(descriptor));
  }

  const uint64_t instance_ = RandomId();
  const std::shared_ptr<Shared> shared_;
  const UcxOptions options_;
};

std::vector<std::string> LoopbackDevices() {
  std::vector<std::string> names;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return names;
  for (const ifaddrs* device = all; device != nullptr; device = device->ifa_next) {
    const bool loopback =
        (device->ifa_flags & IFF_LOOPBACK) != 0 && (device->ifa_flags & IFF_UP) != 0;
    const std::string name = device->ifa_name;
    if (loopback && std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(name);
  }
  freeifaddrs(all);
  return names;
}

absl::StatusOr<std::unique_ptr<Lane>> OpenLane(LaneKind kind, UcxOptions options) {
  if (kind == LaneKind::kTcp && options.tcp_this_host_only && options.devices.empty()) {
    options.devices = LoopbackDevices();
    if (options.devices.empty())
      return absl::UnavailableError("lane tcp: no loopback device is up");
  }
  return Lane::Open(kind, options);
}

absl::Status CheckOptions(const UcxOptions& options) {
  if (options.lanes.empty())
    return absl::InvalidArgumentError("no transport lanes given, known: shm, tcp, rdma");
  for (auto lane = options.lanes.begin(); lane != options.lanes.end(); ++lane) {
    if (std::find(options.lanes.begin(), lane, *lane) == lane) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("transport lane ", *lane, " twice, allowed: each lane once"));
  }
  for (const std::string& device : options.devices) {
    // UCX names RDMA ports "device:port".
    const bool network = if_nametoindex(device.c_str()) != 0;
    if (!network && device.find(':') == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("unknown network device '", device, "'"));
    }
  }
  VARVE_RETURN_IF_ERROR(ParsePortRange(options.tcp_port_range).status());
  if (options.segment_bytes < kMinSegmentBytes || options.segment_bytes > kMaxSegmentBytes) {
    return absl::InvalidArgumentError(absl::StrCat("transport segment of ", options.segment_bytes,
                                                   " bytes, allowed: ", kMinSegmentBytes, " to ",
                                                   kMaxSegmentBytes));
  }
  if (options.keepalive < absl::Milliseconds(1) ||
      options.connect_timeout < absl::Milliseconds(1)) {
    return absl::InvalidArgumentError(
        "transport keepalive and connect timeout must be at least 1 ms");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(const UcxOptions& options) {
  VARVE_RETURN_IF_ERROR(CheckOptions(options));
  RouteUcxLog();
  auto shared = std::make_shared<Shared>();
  std::string failures;
  for (const std::string& name : options.lanes) {
    VARVE_ASSIGN_OR_RETURN(const LaneKind kind, ParseLane(name));
    auto lane = OpenLane(kind, options);
    if (lane.ok()) {
      shared->ports.push_back(std::make_shared<Port>(*std::move(lane), shared->regions));
    } else {
      // A device that the machine does not have is nothing to tell of.
      const bool lacking = absl::IsResourceExhausted(lane.status());
      base::Log(lacking ? base::LogLevel::kWarning : base::LogLevel::kDebug,
                "transport: left out: ", lane.status().message());
      absl::StrAppend(&failures, failures.empty() ? "" : "; ", lane.status().message());
    }
  }
  if (shared->ports.empty())
    return absl::UnavailableError(absl::StrCat("no transport lane works: ", failures));
  return std::make_unique<UcxTransport>(std::move(shared), options);
}

}  // namespace varve::transport
