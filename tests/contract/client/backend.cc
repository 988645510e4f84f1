#include "tests/contract/client/backend.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "grpcpp/channel.h"
#include "kvstore/server/embedded_store.h"
#include "tests/support/store_process.h"

namespace varve::client::testing {
namespace {

// Small, so that tests can go beyond it.
constexpr uint32_t kMaxBatchItems = 500;

template <typename T>
T ValueOrDie(absl::StatusOr<T> value, const char* what) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s: %s\n", what, value.status().ToString().c_str());
    std::abort();
  }
  return *std::move(value);
}

server::EmbeddedStore& Embedded() {
  static const auto store = [] {
    varve::v1::StoreConfig config = server::DefaultStoreConfig();
    config.mutable_host_tier()->set_capacity_bytes(256 << 20);
    config.mutable_sessions()->set_max_batch_items(kMaxBatchItems);
    config.set_log_level("warning");
    return ValueOrDie(server::EmbeddedStore::Start(config), "embedded store");
  }();
  return *store;
}

varve::testing::StoreProcess& Process() {
  static const auto store = ValueOrDie(
      varve::testing::StoreProcess::Start(
          {"--log_level=warning", "--sessions.max_batch_items=" + std::to_string(kMaxBatchItems)}),
      "varve-store");
  return *store;
}

std::vector<std::string> LanesOf(Lane lane) {
  if (lane == Lane::kShm) return {"shm"};
  if (lane == Lane::kTcp) return {"tcp"};
  return {};
}

}  // namespace

std::string LaneName(Lane lane) {
  switch (lane) {
    case Lane::kEmbedded:
      return "loopback";
    case Lane::kShm:
      return "shm";
    case Lane::kTcp:
      return "tcp";
    case Lane::kInline:
      return "inline";
  }
  return "";
}

Connection Connect(Lane lane, const std::string& key_namespace) {
  ClientOptions options;
  options.client_name = "contract";
  options.key_namespace = key_namespace;
  if (lane == Lane::kEmbedded) {
    auto transport = Embedded().MakeClientTransport();
    transport::Transport* const raw = transport.get();
    return {std::move(transport),
            ValueOrDie(Client::Connect(Embedded().channel(), raw, options), "client")};
  }
  options.address = Process().grpc_address();
  options.lanes = LanesOf(lane);
  return {nullptr, ValueOrDie(Client::Connect(options), "client")};
}

std::string RandomBytes(uint64_t seed, size_t bytes) {
  std::string out(bytes, '\0');
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
  for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(out.data() + i, &state, std::min(sizeof(state), bytes - i));
  }
  return out;
}

page::ObjectKey Key(std::string_view text) { return page::ObjectKey::FromBytes(text).value(); }

void Fill(const Memory& memory, size_t offset, std::string_view bytes) {
  std::memcpy(memory.bytes().data() + offset, bytes.data(), bytes.size());
}

std::string Bytes(const Memory& memory, size_t offset, size_t bytes) {
  return {reinterpret_cast<const char*>(memory.bytes().data()) + offset, bytes};
}

}  // namespace varve::client::testing
