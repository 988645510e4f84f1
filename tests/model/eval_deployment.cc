#include "tests/model/eval_deployment.h"

#include <unistd.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/console/stop.h"
#include "client/process/child_process.h"
#include "gpu_worker/remote_worker.h"
#include "kvstore/base/status.h"
#include "kvstore/server/embedded_store.h"

namespace varve::model {
namespace {

using client::ChildProcess;

constexpr uint64_t kStoreBytes = 2ull << 30;

page::DType DTypeOf(const std::string& name) {
  return name == "f16"    ? page::DType::kF16
         : name == "bf16" ? page::DType::kBF16
                          : page::DType::kF32;
}

page::Geometry GeometryOf(const Deployment& deployment, const ModelConfig& config,
                          uint32_t page_tokens) {
  return {config.layers, config.kv_heads,           config.query_heads, config.head_dim,
          page_tokens,   DTypeOf(deployment.dtype), RopeOf(config)};
}

worker::RecallPath PathOf(const Deployment& deployment) {
  return deployment.recall_path == "store" ? worker::RecallPath::kStore
                                           : worker::RecallPath::kWorker;
}

client::ClientOptions ClientOptionsOf(const Deployment& deployment) {
  client::ClientOptions options;
  options.client_name = "varve-eval";
  options.key_namespace = "varve-eval";
  options.lanes.clear();
  if (deployment.transport != "inline") options.lanes.push_back(deployment.transport);
  return options;
}

// Members are destroyed from the last to the first: the worker before its client, the client before
// the store.
class RunningDeploymentImpl final : public RunningDeployment {
 public:
  ~RunningDeploymentImpl() override {
    worker_.reset();
    if (!socket_dir_.empty()) std::filesystem::remove_all(socket_dir_);
  }

  absl::Status Open(const Deployment& deployment, const page::Geometry& geometry) {
    if (deployment.embedded) return OpenEmbedded(deployment, geometry);
    if (!deployment.worker.empty()) return Attach(deployment, geometry, deployment.worker);
    VARVE_RETURN_IF_ERROR(StartStore(deployment));
    return deployment.linked ? Link(deployment, geometry) : StartWorker(deployment, geometry);
  }

  worker::Worker& worker() override { return *worker_; }
  std::string Describe() const override { return description_; }

 private:
  absl::Status OpenEmbedded(const Deployment& deployment, const page::Geometry& geometry) {
    v1::StoreConfig config = server::DefaultStoreConfig();
    config.mutable_host_tier()->set_capacity_bytes(kStoreBytes);
    VARVE_ASSIGN_OR_RETURN(embedded_, server::EmbeddedStore::Start(config));
    transport_ = embedded_->MakeClientTransport();
    VARVE_ASSIGN_OR_RETURN(client_, client::Client::Connect(embedded_->channel(), transport_.get(),
                                                            ClientOptionsOf(deployment)));
    description_ = "store and worker inside this process";
    return MakeLinkedWorker(deployment, geometry);
  }

  absl::Status StartStore(const Deployment& deployment) {
    store_address_ = deployment.store;
    if (!store_address_.empty()) {
      VARVE_RETURN_IF_ERROR(FindStore());
      description_ = absl::StrCat("varve-store (", store_address_, ")");
      return absl::OkStatus();
    }
    ChildProcess::Options options;
    options.stopped = &console::CheckStopped;
    options.binary = "varve-store";
    options.args = {"--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", "--log_level=warning",
                    absl::StrCat("--host_tier.capacity_bytes=", kStoreBytes)};
    VARVE_ASSIGN_OR_RETURN(store_, ChildProcess::Start(options));
    store_address_ = store_->ready("grpc");
    description_ = absl::StrCat("varve-store (pid ", store_->pid(), ")");
    return absl::OkStatus();
  }

  // A worker would wait for its store, and this program for its worker.
  absl::Status FindStore() const {
    client::ClientOptions options;
    options.address = store_address_;
    options.client_name = "varve-eval";
    options.lanes.clear();
    options.connect_timeout = absl::Seconds(5);
    return base::Annotate(client::Client::Connect(options).status(), "--store");
  }

  absl::Status Link(const Deployment& deployment, const page::Geometry& geometry) {
    client::ClientOptions options = ClientOptionsOf(deployment);
    options.address = store_address_;
    VARVE_ASSIGN_OR_RETURN(client_, client::Client::Connect(options));
    absl::StrAppend(&description_, " <- ", client_->lane(), " -> worker inside this process");
    return MakeLinkedWorker(deployment, geometry);
  }

  absl::Status MakeLinkedWorker(const Deployment& deployment, const page::Geometry& geometry) {
    worker::WorkerOptions options;
    options.geometry = geometry;
    options.pool_bytes = deployment.pool_bytes;
    VARVE_ASSIGN_OR_RETURN(options.digest_kind, Digest(deployment));
    options.recall_path = PathOf(deployment);
    VARVE_ASSIGN_OR_RETURN(worker_, worker::Worker::Create(options, client_.get()));
    return absl::OkStatus();
  }

  absl::Status StartWorker(const Deployment& deployment, const page::Geometry& geometry) {
    std::string pattern = (std::filesystem::temp_directory_path() / "varve-eval-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) return absl::ErrnoToStatus(errno, "mkdtemp");
    socket_dir_ = pattern;
    ChildProcess::Options options;
    options.stopped = &console::CheckStopped;
    options.binary = "varve-worker";
    options.args = {absl::StrCat("--listen=unix:", socket_dir_, "/worker.sock"),
                    "--http_listen=127.0.0.1:0",
                    "--log_level=warning",
                    "--key_namespace=varve-eval",
                    absl::StrCat("--store=", store_address_),
                    absl::StrCat("--pool_bytes=", deployment.pool_bytes),
                    absl::StrCat("--transport.lanes=",
                                 deployment.transport == "inline" ? "" : deployment.transport)};
    VARVE_ASSIGN_OR_RETURN(worker_process_, ChildProcess::Start(options));
    const std::string store = std::exchange(description_, "");
    VARVE_RETURN_IF_ERROR(Attach(deployment, geometry, worker_process_->ready("grpc")));
    description_ = absl::StrCat(store, " <- ", deployment.transport, " -> varve-worker (pid ",
                                worker_process_->pid(), ") <- shared memory -> varve-eval");
    return absl::OkStatus();
  }

  absl::Status Attach(const Deployment& deployment, const page::Geometry& geometry,
                      const std::string& address) {
    worker::RemoteWorkerOptions options;
    options.address = address;
    options.engine_name = "varve-eval";
    options.geometry = geometry;
    VARVE_ASSIGN_OR_RETURN(options.digest_kind, Digest(deployment));
    options.recall_path = PathOf(deployment);
    VARVE_ASSIGN_OR_RETURN(worker_, worker::RemoteWorker::Attach(options));
    description_ = absl::StrCat("varve-worker (", address, ") <- shared memory -> varve-eval");
    return absl::OkStatus();
  }

  static absl::StatusOr<page::DigestKind> Digest(const Deployment& deployment) {
    const auto kind = page::DigestKindByName(deployment.digest);
    if (!kind.has_value())
      return absl::InvalidArgumentError(absl::StrCat("unknown digest '", deployment.digest, "'"));
    return *kind;
  }

  std::string description_, store_address_, socket_dir_;
  std::unique_ptr<ChildProcess> store_;
  std::unique_ptr<server::EmbeddedStore> embedded_;
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<client::Client> client_;
  std::unique_ptr<ChildProcess> worker_process_;
  std::unique_ptr<worker::Worker> worker_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RunningDeployment>> RunningDeployment::Start(
    const Deployment& deployment, const ModelConfig& config, uint32_t page_tokens) {
  auto running = std::make_unique<RunningDeploymentImpl>();
  VARVE_RETURN_IF_ERROR(running->Open(deployment, GeometryOf(deployment, config, page_tokens)));
  return running;
}

}  // namespace varve::model
