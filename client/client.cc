#include "client/client.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "client/client_impl.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "kvstore/base/address.h"
#include "kvstore/base/status.h"
#include "kvstore/transport/ucx.h"

namespace varve::client {
namespace {

// What a call takes beyond its transfers: queueing, scoring, the way there and back.
constexpr absl::Duration kTransferCallMargin = absl::Seconds(5);
constexpr absl::Duration kLongestTime = absl::Hours(1);
// Below what a store reads of one stream before it answers (docs/protocol.md), so that it reads
// each at once: the deadline counts from there.
constexpr size_t kMaxRecalls = 32;
constexpr size_t kPageBytes = 4096;

std::shared_ptr<grpc::Channel> Dial(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // A store that comes back should be found at once.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  // A connection of its own: clients of one process neither share a socket nor each other's flow
  // control.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

absl::Status CheckTime(const char* name, absl::Duration value) {
  if (value >= absl::Milliseconds(1) && value <= kLongestTime) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " ", absl::FormatDuration(value),
                                                 " is out of range: 1ms .. ",
                                                 absl::FormatDuration(kLongestTime)));
}

absl::Status CheckOptions(const ClientOptions& options) {
  VARVE_RETURN_IF_ERROR(CheckTime("connect_timeout", options.connect_timeout));
  VARVE_RETURN_IF_ERROR(CheckTime("call_timeout", options.call_timeout));
  return CheckTime("transfer_deadline", options.transfer_deadline);
}

v1::OpenSession OpenRequest(const ClientOptions& options, transport::Transport* transport) {
  v1::OpenSession open;
  open.set_client_name(options.client_name);
  open.set_key_namespace(options.key_namespace);
  if (transport != nullptr) open.set_transport_address(transport->Address());
  return open;
}

}  // namespace

const char* MissName(MissReason reason) {
  switch (reason) {
    case MissReason::kNeverStored:
      return "never stored";
    case MissReason::kEvicted:
      return "evicted";
    case MissReason::kExpired:
      return "expired";
    case MissReason::kIncompatible:
      return "incompatible";
    case MissReason::kCorrupt:
      return "dropped: its checksum was wrong";
    case MissReason::kFailed:
      return "the transfer failed";
    case MissReason::kNone:
      break;
  }
  return "bad item";
}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  VARVE_RETURN_IF_ERROR(CheckOptions(options));
  if (!base::IsAddress(options.address)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", options.address, "' is no address of a store: ", base::kAddressForm, " is expected"));
  }
  std::unique_ptr<transport::Transport> transport;
  if (!options.lanes.empty()) {
    transport::UcxOptions ucx;
    ucx.lanes = options.lanes;
    ucx.devices = options.devices;
    ucx.tcp_port_range = options.tcp_port_range;
    VARVE_ASSIGN_OR_RETURN(transport, transport::MakeUcxTransport(ucx));
  }
  transport::Transport* const raw = transport.get();
  auto client =
      std::make_unique<ClientImpl>(Dial(options.address), raw, std::move(transport), options);
  if (!options.lazy_session) VARVE_RETURN_IF_ERROR(client->Start());
  return client;
}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(std::shared_ptr<grpc::Channel> channel,
                                                        transport::Transport* transport,
                                                        const ClientOptions& options) {
  VARVE_RETURN_IF_ERROR(CheckOptions(options));
  ClientOptions own = options;
  own.address = "given by its channel";
  auto client = std::make_unique<ClientImpl>(std::move(channel), transport, nullptr, own);
  if (!options.lazy_session) VARVE_RETURN_IF_ERROR(client->Start());
  return client;
}

ClientImpl::ClientImpl(std::shared_ptr<grpc::Channel> channel, transport::Transport* transport,
                       std::unique_ptr<transport::Transport> own_transport,
                       const ClientOptions& options)
    : options_(options),
      own_transport_(std::move(own_transport)),
      transport_(transport),
      channel_(std::move(channel)),
      stub_(v1::Store::NewStub(channel_)),
      digests_([this](grpc::ClientContext* context,
                      auto* reactor) { stub_->async()->StreamDigests(context, reactor); },
               nullptr, std::numeric_limits<size_t>::max()),
      recalls_([this](grpc::ClientContext* context,
                      auto* reactor) { stub_->async()->RecallStream(context, reactor); },
               [](const v1::RecallReply& reply) -> uint64_t { return reply.tag(); }, kMaxRecalls,
               [](const v1::RecallReply& reply) { return reply.more(); }),
      session_(stub_.get(), OpenRequest(options, transport), options.connect_timeout) {}

ClientImpl::~ClientImpl() {
  in_flight_.CancelAllAndWait();
  session_.Shutdown();
  digests_.Close();
  recalls_.Close();
}

absl::Status ClientImpl::Start() { return Explain(session_.Acquire().status()); }

std::string ClientImpl::lane() const {
  const Session::OpenedPtr session = session_.last();
  return session == nullptr ? "" : session->lane;
}

ClientLimits ClientImpl::limits() const {
  const Session::OpenedPtr session = session_.last();
  if (session == nullptr) return {};
  return {.max_batch_items = session->limits.max_batch_items(),
          .max_object_bytes = session->limits.max_object_bytes(),
          .max_regions = session->limits.max_regions(),
          .max_registered_bytes = session->limits.max_registered_bytes()};
}

size_t ClientImpl::batch_limit() const {
  const uint32_t limit = limits().max_batch_items;
  return limit == 0 ? SIZE_MAX : limit;
}

absl::Duration ClientImpl::transfer_call_deadline() const {
  return CallDeadline::Shorten(options_.transfer_deadline + kTransferCallMargin);
}

uint32_t ClientImpl::transfer_deadline_ms() const {
  return static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.transfer_deadline));
}

absl::Status ClientImpl::Explain(const absl::Status& status) const {
  if (status.code() == absl::StatusCode::kUnauthenticated) {
    return absl::UnavailableError(
        absl::StrCat("store ", options_.address, ": the session was lost: ", status.message()));
  }
  // A store that shuts down cancels what it has not answered.
  if (status.code() == absl::StatusCode::kCancelled && !in_flight_.closing()) {
    return absl::UnavailableError(
        absl::StrCat("store ", options_.address, " gave the call up: ", status.message()));
  }
  if (status.code() == absl::StatusCode::kUnavailable ||
      status.code() == absl::StatusCode::kDeadlineExceeded) {
    return base::Annotate(status, absl::StrCat("store ", options_.address).c_str());
  }
  return status;
}

absl::StatusOr<std::unique_ptr<Memory>> ClientImpl::Register(std::span<std::byte> memory) {
  if (memory.data() == nullptr || memory.empty()) {
    return absl::InvalidArgumentError("memory to register must not be empty");
  }
  if (inline_only()) return std::make_unique<RegisteredMemory>(&session_, memory, nullptr);
  VARVE_ASSIGN_OR_RETURN(std::unique_ptr<transport::Region> region, transport_->Register(memory));
  const uint64_t id = next_region_id_.fetch_add(1);
  VARVE_RETURN_IF_ERROR(Explain(session_.AddRegion(id, region->descriptor())));
  return std::make_unique<RegisteredMemory>(&session_, id, std::move(region));
}

absl::StatusOr<std::unique_ptr<Memory>> ClientImpl::Allocate(size_t bytes) {
  if (bytes == 0) return absl::InvalidArgumentError("memory to allocate must not be empty");
  if (inline_only()) {
    if (bytes > SIZE_MAX - kPageBytes)
      return absl::ResourceExhaustedError("no memory of that size");
    OwnBuffer own(static_cast<std::byte*>(
        std::aligned_alloc(kPageBytes, (bytes + kPageBytes - 1) / kPageBytes * kPageBytes)));
    if (own == nullptr)
      return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
    std::memset(own.get(), 0, bytes);
    const std::span<std::byte> span(own.get(), bytes);
    return std::make_unique<RegisteredMemory>(&session_, span, std::move(own));
  }
  VARVE_ASSIGN_OR_RETURN(std::unique_ptr<transport::Region> region, transport_->Allocate(bytes));
  const uint64_t id = next_region_id_.fetch_add(1);
  VARVE_RETURN_IF_ERROR(Explain(session_.AddRegion(id, region->descriptor())));
  return std::make_unique<RegisteredMemory>(&session_, id, std::move(region));
}

}  // namespace varve::client
