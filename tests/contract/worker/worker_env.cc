#include "tests/contract/worker/worker_env.h"

#include <utility>

#include "kvstore/base/status.h"
#include "kvstore/server/embedded_store.h"
#include "tests/support/fake_client.h"

namespace varve::testing {
namespace {

class FakeSetup final : public StoreSetup {
 public:
  absl::StatusOr<client::Client*> Connect() override { return &client_; }

 private:
  FakeClient client_;
};

class EmbeddedSetup final : public StoreSetup {
 public:
  absl::Status Start() {
    varve::v1::StoreConfig config = server::DefaultStoreConfig();
    config.mutable_host_tier()->set_capacity_bytes(128 << 20);
    VARVE_ASSIGN_OR_RETURN(store_, server::EmbeddedStore::Start(config));
    return absl::OkStatus();
  }
  absl::StatusOr<client::Client*> Connect() override {
    transports_.push_back(store_->MakeClientTransport());
    VARVE_ASSIGN_OR_RETURN(
        std::unique_ptr<client::Client> client,
        client::Client::Connect(store_->channel(), transports_.back().get(), {}));
    clients_.push_back(std::move(client));
    return clients_.back().get();
  }

 private:
  std::unique_ptr<server::EmbeddedStore> store_;
  std::vector<std::unique_ptr<transport::Transport>> transports_;
  std::vector<std::unique_ptr<client::Client>> clients_;
};

class Linked final : public WorkerUnderTest {
 public:
  absl::Status Start(client::Client* client, worker::WorkerOptions options, uint32_t pages) {
    memory_.resize(pages * options.geometry.page_bytes());
    options.pool_memory = memory_;
    VARVE_ASSIGN_OR_RETURN(worker_, worker::Worker::Create(options, client));
    return absl::OkStatus();
  }
  worker::Worker* worker() override { return worker_.get(); }
  std::span<const std::byte> pool() const override { return memory_; }

 private:
  std::vector<std::byte> memory_;
  std::unique_ptr<worker::Worker> worker_;
};

}  // namespace

std::vector<WorkerSetting> AllSettings() {
  using worker::RecallPath;
  return {
      {"LinkedFakePathWorker", "fake", false, RecallPath::kWorker},
      {"LinkedFakePathStore", "fake", false, RecallPath::kStore},
      {"LinkedEmbeddedPathWorker", "embedded", false, RecallPath::kWorker},
      {"LinkedEmbeddedPathStore", "embedded", false, RecallPath::kStore},
  };
}

absl::StatusOr<std::unique_ptr<StoreSetup>> MakeStore(const std::string& store) {
  if (store == "fake") return std::make_unique<FakeSetup>();
  auto embedded = std::make_unique<EmbeddedSetup>();
  VARVE_RETURN_IF_ERROR(embedded->Start());
  return embedded;
}

absl::StatusOr<std::unique_ptr<WorkerUnderTest>> MakeWorker(const WorkerSetting& setting,
                                                            StoreSetup* store,
                                                            worker::WorkerOptions options,
                                                            uint32_t pages) {
  options.recall_path = setting.path;
  VARVE_ASSIGN_OR_RETURN(client::Client * client, store->Connect());
  auto linked = std::make_unique<Linked>();
  VARVE_RETURN_IF_ERROR(linked->Start(client, options, pages));
  return linked;
}

}  // namespace varve::testing
