#include "gpu_worker/sidecar/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <atomic>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "gpu_worker/sidecar/engine_session.h"
#include "gpu_worker/sidecar/service.h"
#include "gpu_worker/sidecar/shared_file.h"
#include "gpu_worker/sidecar/status_page.h"
#include "gpu_worker/sidecar/store_watch.h"
#include "gpu_worker/worker_metrics.h"
#include "kvstore/base/address.h"
#include "kvstore/base/http_server.h"
#include "kvstore/base/log.h"
#include "kvstore/base/metrics.h"
#include "kvstore/base/process_metrics.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/base/unix_socket.h"
#include "kvstore/base/version.h"

namespace varve::worker {

namespace {

// What killed workers left in memory would be missing here.
void SweepSharedMemory(const std::string& directory) {
  constexpr const char* kNames[] = {"pool", "tensors"};
  const SharedFile::Swept swept = SharedFile::SweepAbandoned(directory, kNames);
  if (swept.files == 0) return;
  base::LogInfo("removed ", swept.files, " files of workers that were killed from ", directory,
                ", ", base::FormatBytes(swept.bytes));
}

}  // namespace

struct WorkerServer::Impl {
  absl::Status ServeGrpc();
  absl::Status ServeHttp();
  void BeforeScrape();
  base::HttpResponse Ready() const;

  // Destroyed in reverse: HTTP, gRPC, service, engines, client.
  varve::v1::WorkerConfig config;
  base::Metrics registry;
  std::unique_ptr<WorkerMetrics> metrics;
  std::unique_ptr<StoreWatch> watch;
  std::unique_ptr<client::Client> client;
  std::unique_ptr<EngineTable> engines;
  std::unique_ptr<WorkerService> service;
  std::unique_ptr<base::UnixSocket> socket;
  std::unique_ptr<grpc::Server> grpc_server;
  std::unique_ptr<base::HttpServer> http_server;
  std::string grpc_address;
  std::string http_address;
  std::atomic<bool> open{false};
  std::atomic<bool> draining{false};
};

absl::Status WorkerServer::Impl::ServeGrpc() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  grpc_address = config.listen();
  std::string bind = grpc_address;
  if (absl::string_view path = grpc_address; absl::ConsumePrefix(&path, "unix:")) {
    VARVE_ASSIGN_OR_RETURN(socket, base::UnixSocket::Claim(std::string(path)));
    bind = absl::StrCat("unix:", socket->bind_path());
  }
  builder.AddListeningPort(bind, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(64 << 20);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.RegisterService(service.get());
  grpc_server = builder.BuildAndStart();
  if (grpc_server == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot serve gRPC on ", config.listen(), ": ",
                                               base::WhyNotBound(config.listen())));
  }
  grpc_server->GetHealthCheckService()->SetServingStatus(v1::Worker::service_full_name(), false);
  // Whoever may open the socket may read other engines' status: only this user.
  if (socket != nullptr) return socket->Publish(0600);
  grpc_address = absl::StrCat(grpc_address.substr(0, grpc_address.rfind(':')), ":", port);
  return absl::OkStatus();
}

base::HttpResponse WorkerServer::Impl::Ready() const {
  if (draining) return {.code = 503, .body = "draining\n"};
  if (const absl::Status state = watch->state(); !state.ok()) {
    return {.code = 503, .body = absl::StrCat("store: ", state.message(), "\n")};
  }
  if (!open) return {.code = 503, .body = "store: no session with it yet\n"};
  return {.body = "ready\n"};
}

void WorkerServer::Impl::BeforeScrape() {
  // Each engine's worker sets these for itself; together they are the process's.
  const WorkerStatus total = engines->Total();
  metrics->pool_pages.Set(static_cast<double>(total.pool_pages));
  metrics->pool_free_pages.Set(static_cast<double>(total.free_pages));
  metrics->sequences.Set(total.sequences);
}

absl::Status WorkerServer::Impl::ServeHttp() {
  registry
      .Gauge("varve_build_info", "Always 1",
             {{"version", base::kVersion}, {"commit", base::kCommit}})
      .Set(1);
  base::DeclareProcessMetrics(registry);
  registry.OnScrape([this] { BeforeScrape(); });
  if (config.http_listen().empty()) return absl::OkStatus();
  std::map<std::string, base::HttpHandler> handlers;
  handlers["/metrics"] = [this](const std::string&) {
    return base::HttpResponse{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                              .body = registry.Render()};
  };
  handlers["/healthz"] = [](const std::string&) { return base::HttpResponse{.body = "ok\n"}; };
  handlers["/readyz"] = [this](const std::string&) { return Ready(); };
  handlers["/"] = [this](const std::string&) {
    v1::WorkerStatus status;
    service->FillStatus(&status);
    return base::HttpResponse{.content_type = "text/html; charset=utf-8",
                              .body = StatusPage(status, engines->All(), draining)};
  };
  VARVE_ASSIGN_OR_RETURN(http_server, base::HttpServer::Start(config.http_listen(), handlers));
  http_address = absl::StrCat(config.http_listen().substr(0, config.http_listen().rfind(':')), ":",
                              http_server->port());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(
    const varve::v1::WorkerConfig& config) {
  auto impl = std::make_unique<Impl>();
  impl->config = config;
  VARVE_ASSIGN_OR_RETURN(const EigensolverChoice choice,
                         ParseEigensolverChoice(config.eigensolver()));
  VARVE_ASSIGN_OR_RETURN(std::shared_ptr<Eigensolver> eigensolver,
                         Eigensolver::Create(choice, &impl->registry));
  impl->metrics = std::make_unique<WorkerMetrics>(&impl->registry);
  prometheus::Gauge& up =
      impl->registry.Gauge("varve_worker_store_up", "1 while the store answers, else 0");
  VARVE_ASSIGN_OR_RETURN(impl->watch, StoreWatch::Start(config.store(), &up));
  impl->engines = std::make_unique<EngineTable>(config, &impl->registry, std::move(eigensolver));
  impl->service = std::make_unique<WorkerService>(impl->engines.get(), impl->watch.get(),
                                                  config.store(), &impl->registry);
  const absl::Status serving = impl->ServeGrpc();
  // From here on the destructor cleans up.
  std::unique_ptr<WorkerServer> server(new WorkerServer(std::move(impl)));
  VARVE_RETURN_IF_ERROR(serving);
  VARVE_RETURN_IF_ERROR(server->impl_->ServeHttp());
  SweepSharedMemory(config.shared_memory_dir());
  return server;
}

void WorkerServer::Open(std::unique_ptr<client::Client> client) {
  impl_->client = std::move(client);
  impl_->engines->Open(impl_->client.get());
  impl_->open = true;
  impl_->grpc_server->GetHealthCheckService()->SetServingStatus(v1::Worker::service_full_name(),
                                                                true);
}

WorkerServer::WorkerServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

WorkerServer::~WorkerServer() { Shutdown(absl::ZeroDuration()); }

const std::string& WorkerServer::grpc_address() const { return impl_->grpc_address; }
const std::string& WorkerServer::http_address() const { return impl_->http_address; }

absl::Status WorkerServer::AskStore() const { return impl_->watch->Ask(); }

void WorkerServer::Shutdown(absl::Duration grace) {
  if (impl_->grpc_server == nullptr) return;
  impl_->draining = true;
  impl_->grpc_server->GetHealthCheckService()->SetServingStatus(false);
  impl_->engines->Close(absl::Now() + grace);
  impl_->service->WaitIdle(grace);
  // Engine streams last as long as their engines: they are ended here, and with them their
  // sequences.
  impl_->grpc_server->Shutdown(std::chrono::system_clock::now());
  impl_->grpc_server->Wait();
  impl_->http_server.reset();
  impl_->grpc_server.reset();
}

}  // namespace varve::worker
