#include "tests/integration/store_harness.h"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/transport/ucx.h"

namespace varve::testing {
namespace {

using varve::v1::SessionReply;
using varve::v1::SessionRequest;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

template <typename T>
T OrDie(absl::StatusOr<T> value, const char* what) {
  if (!value.ok()) Die(absl::StrCat(what, ": ", value.status().ToString()));
  return *std::move(value);
}

}  // namespace

std::unique_ptr<StoreUnderTest> StoreUnderTest::Start(
    const std::string& kind, const std::vector<std::string>& flags,
    const std::function<void(varve::v1::StoreConfig&)>& change) {
  auto store = std::make_unique<StoreUnderTest>();
  store->kind_ = kind;
  if (kind == "embedded") {
    varve::v1::StoreConfig config = server::DefaultStoreConfig();
    config.mutable_host_tier()->set_capacity_bytes(64 << 20);
    if (change) change(config);
    store->embedded_ = OrDie(server::EmbeddedStore::Start(config), "embedded store");
    return store;
  }
  const std::vector<std::string> all = FlagsOver(
      {absl::StrCat("--transport.lanes=", kind), "--host_tier.capacity_bytes=64MiB"}, flags);
  store->process_ = OrDie(StoreProcess::Start(all), "varve-store");
  store->address_ = store->process_->grpc_address();
  return store;
}

std::unique_ptr<StoreUnderTest> StoreUnderTest::Attach(const std::string& address,
                                                       const std::string& lane) {
  auto store = std::make_unique<StoreUnderTest>();
  store->kind_ = lane;
  store->address_ = address;
  return store;
}

std::shared_ptr<grpc::Channel> StoreUnderTest::MakeChannel() const {
  if (embedded_ != nullptr) return embedded_->channel();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // Each client has a connection of its own, as it would in another process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments);
}

std::unique_ptr<transport::Transport> StoreUnderTest::MakeTransport() const {
  if (embedded_ != nullptr) return embedded_->MakeClientTransport();
  transport::UcxOptions options;
  options.lanes = {kind_};
  return OrDie(transport::MakeUcxTransport(options), "client transport");
}

varve::v1::MemoryRef Buffer::Ref(uint64_t offset, uint64_t size) const {
  varve::v1::MemoryRef ref;
  ref.set_region_id(region_id);
  ref.set_offset(offset);
  ref.set_bytes(size);
  return ref;
}

RawClient::RawClient(const StoreUnderTest& store, const Options& options)
    : channel_(store.MakeChannel()), stub_(varve::v1::Store::NewStub(channel_)) {
  if (!options.inline_only) transport_ = store.MakeTransport();
  session_ = stub_->Session(&session_context_);
  SessionRequest request;
  request.mutable_open()->set_client_name(options.name);
  request.mutable_open()->set_key_namespace(options.key_namespace);
  if (transport_ != nullptr) request.mutable_open()->set_transport_address(transport_->Address());
  SessionReply reply;
  if (Exchange(request, &reply)) {
    opened_ = reply.opened();
  } else {
    open_status_ = AwaitEnd();
  }
}

RawClient::~RawClient() {
  if (!session_over_) EndSession();
}

bool RawClient::Exchange(const SessionRequest& request, SessionReply* reply) {
  return session_->Write(request) && session_->Read(reply);
}

grpc::Status RawClient::EndSession() {
  session_->WritesDone();
  return AwaitEnd();
}

grpc::Status RawClient::AwaitEnd() {
  SessionReply reply;
  while (session_->Read(&reply)) {
  }
  session_over_ = true;
  return session_->Finish();
}

Buffer RawClient::Allocate(size_t bytes) {
  Buffer buffer;
  buffer.region_id = next_region_++;
  buffer.region = OrDie(transport_->Allocate(bytes), "allocate");
  const varve::v1::RegionReply reply = Register(buffer.region_id, buffer.region->descriptor());
  if (!reply.error().empty()) Die(absl::StrCat("register: ", reply.error()));
  return buffer;
}

varve::v1::RegionReply RawClient::Register(uint64_t region_id, const std::string& descriptor) {
  SessionRequest request;
  request.mutable_register_region()->set_region_id(region_id);
  request.mutable_register_region()->set_descriptor_bytes(descriptor);
  SessionReply reply;
  if (!Exchange(request, &reply))
    Die(absl::StrCat("the session ended while a region was registered: ",
                     AwaitEnd().error_message()));
  return reply.region();
}

varve::v1::RegionReply RawClient::Unregister(uint64_t region_id) {
  SessionRequest request;
  request.mutable_unregister_region()->set_region_id(region_id);
  SessionReply reply;
  if (!Exchange(request, &reply))
    Die(absl::StrCat("the session ended while a region was unregistered: ",
                     AwaitEnd().error_message()));
  return reply.region();
}

varve::v1::PutReply RawClient::Put(varve::v1::PutRequest request) {
  request.set_session_id(session_id());
  varve::v1::PutReply reply;
  const grpc::Status status = Call(*stub_, &varve::v1::Store::Stub::Put, request, &reply);
  if (!status.ok()) Die(absl::StrCat("Put: ", status.error_message()));
  return reply;
}

varve::v1::GetReply RawClient::Get(varve::v1::GetRequest request) {
  request.set_session_id(session_id());
  varve::v1::GetReply reply;
  const grpc::Status status = Call(*stub_, &varve::v1::Store::Stub::Get, request, &reply);
  if (!status.ok()) Die(absl::StrCat("Get: ", status.error_message()));
  return reply;
}

varve::v1::PutItemResult RawClient::PutOne(const std::string& key, const Buffer& buffer,
                                           uint64_t offset, uint64_t bytes,
                                           const varve::v1::ObjectLayout& layout) {
  varve::v1::PutRequest request;
  varve::v1::PutItem* item = request.add_items();
  item->set_key(key);
  *item->add_sources() = buffer.Ref(offset, bytes);
  *item->mutable_layout() = layout;
  return Put(std::move(request)).results(0);
}

varve::v1::GetItemResult RawClient::GetOne(const std::string& key, const Buffer& buffer,
                                           uint64_t offset, uint64_t bytes,
                                           const varve::v1::ObjectRange& range) {
  varve::v1::GetRequest request;
  varve::v1::GetItem* item = request.add_items();
  item->set_key(key);
  *item->add_destinations() = buffer.Ref(offset, bytes);
  *item->mutable_range() = range;
  return Get(std::move(request)).results(0);
}

bool RawClient::Exists(const std::string& key) {
  varve::v1::ExistsRequest request;
  request.set_session_id(session_id());
  request.add_keys(key);
  varve::v1::ExistsReply reply;
  const grpc::Status status = Call(*stub_, &varve::v1::Store::Stub::Exists, request, &reply);
  if (!status.ok()) Die(absl::StrCat("Exists: ", status.error_message()));
  return reply.exists(0);
}

varve::v1::StoreStatus RawClient::Status() {
  varve::v1::StoreStatus reply;
  const grpc::Status status =
      Call(*stub_, &varve::v1::Store::Stub::GetStatus, varve::v1::GetStatusRequest(), &reply);
  if (!status.ok()) Die(absl::StrCat("GetStatus: ", status.error_message()));
  return reply;
}

bool Eventually(const std::function<bool()>& condition, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

void FillPattern(std::span<std::byte> bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
}

std::string Key(const std::string& name) { return "key:" + name; }

}  // namespace varve::testing
