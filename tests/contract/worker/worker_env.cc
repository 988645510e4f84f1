#include "tests/contract/worker/worker_env.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "gpu_worker/remote_worker.h"
#include "kvstore/base/status.h"
#include "kvstore/server/embedded_store.h"
#include "tests/support/fake_client.h"
#include "tests/support/store_process.h"

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

// A varve-store of its own, reached over one lane.
class ProcessSetup final : public StoreSetup {
 public:
  explicit ProcessSetup(std::string lane) : lane_(std::move(lane)) {}
  absl::Status Start() {
    VARVE_ASSIGN_OR_RETURN(store_, StoreProcess::Start({}));
    return absl::OkStatus();
  }
  absl::StatusOr<client::Client*> Connect() override {
    client::ClientOptions options;
    options.address = address();
    options.lanes = {lane_};
    VARVE_ASSIGN_OR_RETURN(std::unique_ptr<client::Client> client,
                           client::Client::Connect(options));
    if (client->lane() != lane_) {
      return absl::InternalError("connected over " + client->lane() + ", not " + lane_);
    }
    clients_.push_back(std::move(client));
    return clients_.back().get();
  }
  std::string address() const override { return store_->grpc_address(); }
  std::string lane() const override { return lane_; }

 private:
  const std::string lane_;
  std::unique_ptr<StoreProcess> store_;
  std::vector<std::unique_ptr<client::Client>> clients_;
};

// A varve-worker of its own and an engine attached to it.
class Sidecar final : public WorkerUnderTest {
 public:
  absl::Status Start(const StoreSetup& store, const worker::WorkerOptions& options,
                     uint32_t pages) {
    const std::string socket = absl::StrCat("unix:/tmp/varve-test-", getpid(), "-",
                                            absl::ToUnixNanos(absl::Now()), ".sock");
    VARVE_ASSIGN_OR_RETURN(
        process_,
        StoreProcess::StartProgram(
            "varve-worker", {"--listen", socket, "--http_listen=127.0.0.1:0", "--store",
                             store.address(), "--transport.lanes", store.lane(),
                             "--log_level=warning", "--pool_bytes", absl::StrCat(64 << 20)}));
    worker::RemoteWorkerOptions remote;
    remote.address = process_->grpc_address();
    remote.geometry = options.geometry;
    remote.tensor_bytes = 1 << 20;
    remote.pool_bytes = pages * options.geometry.page_bytes();
    remote.digest_kind = options.digest_kind;
    remote.recall_path = options.recall_path;
    remote.mass_sample_every = options.mass_sample_every;
    VARVE_ASSIGN_OR_RETURN(worker_, worker::RemoteWorker::Attach(remote));
    return absl::OkStatus();
  }
  worker::Worker* worker() override { return worker_.get(); }
  std::span<const std::byte> pool() const override { return worker_->pool(); }

 private:
  std::unique_ptr<StoreProcess> process_;
  std::unique_ptr<worker::RemoteWorker> worker_;
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
      {"LinkedShmPathWorker", "shm", false, RecallPath::kWorker},
      {"LinkedShmPathStore", "shm", false, RecallPath::kStore},
      {"LinkedTcpPathWorker", "tcp", false, RecallPath::kWorker},
      {"LinkedTcpPathStore", "tcp", false, RecallPath::kStore},
      {"SidecarShmPathWorker", "shm", true, RecallPath::kWorker},
      {"SidecarShmPathStore", "shm", true, RecallPath::kStore},
      {"SidecarTcpPathWorker", "tcp", true, RecallPath::kWorker},
      {"SidecarTcpPathStore", "tcp", true, RecallPath::kStore},
  };
}

absl::StatusOr<std::unique_ptr<StoreSetup>> MakeStore(const std::string& store) {
  if (store == "fake") return std::make_unique<FakeSetup>();
  if (store == "shm" || store == "tcp") {
    auto process = std::make_unique<ProcessSetup>(store);
    VARVE_RETURN_IF_ERROR(process->Start());
    return process;
  }
  auto embedded = std::make_unique<EmbeddedSetup>();
  VARVE_RETURN_IF_ERROR(embedded->Start());
  return embedded;
}

absl::StatusOr<std::unique_ptr<WorkerUnderTest>> MakeWorker(const WorkerSetting& setting,
                                                            StoreSetup* store,
                                                            worker::WorkerOptions options,
                                                            uint32_t pages) {
  options.recall_path = setting.path;
  if (setting.sidecar) {
    auto sidecar = std::make_unique<Sidecar>();
    VARVE_RETURN_IF_ERROR(sidecar->Start(*store, options, pages));
    return sidecar;
  }
  VARVE_ASSIGN_OR_RETURN(client::Client * client, store->Connect());
  auto linked = std::make_unique<Linked>();
  VARVE_RETURN_IF_ERROR(linked->Start(client, options, pages));
  return linked;
}

}  // namespace varve::testing
