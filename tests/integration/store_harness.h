// Stores to test against, and a client of bare stubs: nothing between the test and the wire.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvstore/server/embedded_store.h"
#include "kvstore/transport/transport.h"
#include "tests/support/store_process.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::testing {

// A store, and transports that reach it.
class StoreUnderTest {
 public:
  // kind: "embedded" (in this process, loopback), "shm" or "tcp" (a varve-store process, that UCX
  // lane). flags are for a process, change is for an embedded store. Aborts the test program when
  // the store does not start.
  static std::unique_ptr<StoreUnderTest> Start(
      const std::string& kind, const std::vector<std::string>& flags = {},
      const std::function<void(varve::v1::StoreConfig&)>& change = nullptr);

  // A store that runs already, reached over the lane.
  static std::unique_ptr<StoreUnderTest> Attach(const std::string& address,
                                                const std::string& lane);

  const std::string& kind() const { return kind_; }
  std::string lane() const { return kind_ == "embedded" ? "loopback" : kind_; }
  std::shared_ptr<grpc::Channel> MakeChannel() const;
  std::unique_ptr<transport::Transport> MakeTransport() const;
  // Null for an embedded store and an attached one.
  StoreProcess* process() const { return process_.get(); }

 private:
  std::string kind_;
  std::string address_;
  std::unique_ptr<server::EmbeddedStore> embedded_;
  std::unique_ptr<StoreProcess> process_;
};

// Registered memory.
struct Buffer {
  uint64_t region_id = 0;
  std::unique_ptr<transport::Region> region;
  std::span<std::byte> bytes() const { return region->memory(); }
  varve::v1::MemoryRef Ref(uint64_t offset, uint64_t size) const;
};

// A session by hand. One thread at a time.
class RawClient {
 public:
  struct Options {
    std::string name = "test";
    std::string key_namespace = "ns";
    bool inline_only = false;
  };
  explicit RawClient(const StoreUnderTest& store) : RawClient(store, Options()) {}
  RawClient(const StoreUnderTest& store, const Options& options);
  ~RawClient();

  varve::v1::Store::Stub& stub() { return *stub_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  transport::Transport& transport() { return *transport_; }
  const std::string& session_id() const { return opened_.session_id(); }
  const varve::v1::SessionOpened& opened() const { return opened_; }
  // What the store said when it refused the session; OK when it is open.
  const grpc::Status& open_status() const { return open_status_; }

  // Allocated by the transport and registered; fails the test program when refused.
  Buffer Allocate(size_t bytes);
  varve::v1::RegionReply Register(uint64_t region_id, const std::string& descriptor);
  varve::v1::RegionReply Unregister(uint64_t region_id);
  // One message and its reply; false when the stream is over.
  bool Exchange(const varve::v1::SessionRequest& request, varve::v1::SessionReply* reply);
  // Half-closes and waits for the stream's status.
  grpc::Status EndSession();
  // Waits for the store to end the stream.
  grpc::Status AwaitEnd();
  void CancelSession() { session_context_.TryCancel(); }

  // ---- calls with the session's id filled in; the gRPC status is expected to be OK
  varve::v1::PutReply Put(varve::v1::PutRequest request);
  varve::v1::GetReply Get(varve::v1::GetRequest request);
  // One object from / into the whole buffer.
  varve::v1::PutItemResult PutOne(const std::string& key, const Buffer& buffer, uint64_t offset,
                                  uint64_t bytes, const varve::v1::ObjectLayout& layout = {});
  varve::v1::GetItemResult GetOne(const std::string& key, const Buffer& buffer, uint64_t offset,
                                  uint64_t bytes, const varve::v1::ObjectRange& range = {});
  bool Exists(const std::string& key);
  varve::v1::StoreStatus Status();

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<varve::v1::Store::Stub> stub_;
  grpc::ClientContext session_context_;
  std::unique_ptr<grpc::ClientReaderWriter<varve::v1::SessionRequest, varve::v1::SessionReply>>
      session_;
  bool session_over_ = false;
  varve::v1::SessionOpened opened_;
  grpc::Status open_status_;
  uint64_t next_region_ = 1;
};

// Calls a unary method and returns its status.
template <typename Request, typename Reply>
grpc::Status Call(varve::v1::Store::Stub& stub,
                  grpc::Status (varve::v1::Store::Stub::*method)(grpc::ClientContext*,
                                                                 const Request&, Reply*),
                  const Request& request, Reply* reply) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return (stub.*method)(&context, request, reply);
}

// Polls until it holds or a generous time is over.
bool Eventually(const std::function<bool()>& condition, absl::Duration timeout = absl::Seconds(20));

// Bytes that depend on the seed only.
void FillPattern(std::span<std::byte> bytes, uint64_t seed);
std::string Key(const std::string& name);  // at least 4 bytes

}  // namespace varve::testing
