// What the suites of the transports' contract share: the kinds of transport, and a store's and a
// client's side of each.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kvstore/transport/fault.h"
#include "kvstore/transport/loopback.h"
#include "kvstore/transport/transport.h"
#include "kvstore/transport/ucx.h"

namespace varve::transport {

struct Kind {
  std::string name;
  std::string lane;
  std::function<std::unique_ptr<Transport>()> make;
};
inline void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

inline std::unique_ptr<Transport> MakeUcx(const std::string& lane) {
  UcxOptions options;
  options.lanes = {lane};
  if (lane == "tcp") options.devices = {"lo"};
  auto transport = MakeUcxTransport(options);
  return transport.ok() ? *std::move(transport) : nullptr;
}

inline std::vector<Kind> Kinds() {
  return {
      {"loopback", "loopback", [] { return MakeLoopbackTransport(); }},
      {"ucx_shm", "shm", [] { return MakeUcx("shm"); }},
      {"ucx_tcp", "tcp", [] { return MakeUcx("tcp"); }},
      {"fault_loopback", "loopback",
       [] { return MakeFaultTransport(MakeLoopbackTransport(), {}); }},
      {"fault_ucx_shm", "shm", [] { return MakeFaultTransport(MakeUcx("shm"), {}); }},
  };
}
enum class Memory { kRegistered, kAllocated };

// A store's transport, a client's, and a connection between them.
class ContractTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    store_ = GetParam().make();
    client_ = GetParam().make();
    ASSERT_NE(store_, nullptr);
    ASSERT_NE(client_, nullptr);
  }

  std::unique_ptr<Endpoint> Connect() { return ConnectTo(*client_); }
  std::unique_ptr<Endpoint> ConnectTo(const Transport& peer) {
    auto endpoint = store_->Connect(peer.Address());
    EXPECT_TRUE(endpoint.ok()) << endpoint.status();
    return endpoint.ok() ? *std::move(endpoint) : nullptr;
  }

  // Client memory of a size. Registered memory is backed by `buffers_`.
  std::unique_ptr<Region> MakeRegion(Memory memory, size_t bytes) {
    auto region = [&]() -> absl::StatusOr<std::unique_ptr<Region>> {
      if (memory == Memory::kAllocated) return client_->Allocate(bytes);
      buffers_.push_back(std::make_unique<std::vector<std::byte>>(bytes));
      return client_->Register(*buffers_.back());
    }();
    EXPECT_TRUE(region.ok()) << region.status();
    return *std::move(region);
  }

  static std::unique_ptr<RemoteRegion> Import(Endpoint& endpoint, const Region& region) {
    auto remote = endpoint.Import(region.descriptor());
    EXPECT_TRUE(remote.ok()) << remote.status();
    return *std::move(remote);
  }

  std::vector<std::byte> RandomBytes(size_t n) {
    std::vector<std::byte> bytes(n);
    for (auto& b : bytes) b = static_cast<std::byte>(random_());
    return bytes;
  }

  std::mt19937 random_{20261121};
  std::vector<std::unique_ptr<std::vector<std::byte>>> buffers_;
  std::unique_ptr<Transport> store_;
  std::unique_ptr<Transport> client_;
};

}  // namespace varve::transport
