#include "kvstore/server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "kvstore/base/address.h"
#include "kvstore/base/clock.h"
#include "kvstore/base/http_server.h"
#include "kvstore/base/log.h"
#include "kvstore/base/process_metrics.h"
#include "kvstore/base/status.h"
#include "kvstore/base/unix_socket.h"
#include "kvstore/base/version.h"
#include "kvstore/server/admin_service.h"
#include "kvstore/server/config.h"
#include "kvstore/server/core.h"
#include "kvstore/server/disk_stack.h"
#include "kvstore/server/http_pages.h"
#include "kvstore/server/store_service.h"
#include "kvstore/server/ticker.h"
#include "kvstore/server/tier_admin.h"
#include "kvstore/tier/host_tier.h"
#include "kvstore/tier/memory_limit.h"

namespace varve::server {
namespace {

// Whole-call checksums and copies; they saturate memory long before they saturate many cores.
int DataThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 2, 8);
}
constexpr int kControlThreads = 2;
// So long what contexts tell the disk is gathered.
constexpr absl::Duration kNotesInterval = absl::Milliseconds(200);
// They wait for clients more than they work.
constexpr int kConnectThreads = 16;

void SetChannelArguments(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(-1);
  // Two stores on one port would share its connections without a word.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A client host that vanished without a word loses its sessions within 20 s.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
}

// "host:port" with the bound port in place of the asked one; unix addresses stay.
std::string BoundAddress(const std::string& asked, int port) {
  if (absl::StartsWith(asked, "unix:")) return asked;
  return absl::StrCat(asked.substr(0, asked.rfind(':')), ":", port);
}

}  // namespace

struct StoreServer::Impl {
  absl::Status Build(ServerOptions given);
  absl::Status MakeRooms();
  absl::Status ServeGrpc();
  absl::Status ServeHttp();
  void StartDraining();
  void BeforeScrape();
  // What is in host memory alone, as far as there is time.
  void FlushToDisk(absl::Time deadline);

  // Destroyed in reverse: servers, pools (they finish what is queued), sessions, rooms, transport.
  ServerOptions options;
  base::Metrics registry;
  std::unique_ptr<StoreMetrics> metrics;
  std::unique_ptr<tier::HostTier> host_tier;
  std::unique_ptr<DiskStack> disk;  // null without directories
  std::unique_ptr<store::PageStore> pages;
  std::unique_ptr<recall::ContextTable> contexts;
  std::unique_ptr<SessionTable> sessions;
  OpenStreams streams;
  std::unique_ptr<base::ThreadPool> data_pool;
  std::unique_ptr<base::ThreadPool> put_pool;
  std::unique_ptr<base::ThreadPool> recall_pool;
  std::unique_ptr<base::ThreadPool> control_pool;
  std::unique_ptr<base::ThreadPool> connect_pool;
  std::unique_ptr<Core> core;
  std::unique_ptr<Ticker> ticker;
  std::unique_ptr<Ticker> notes_ticker;
  std::unique_ptr<AdminService> admin;
  std::unique_ptr<TierAdmin> tiers;
  std::unique_ptr<varve::v1::Store::CallbackService> service;
  std::unique_ptr<base::UnixSocket> socket;
  std::unique_ptr<grpc::Server> grpc_server;
  std::unique_ptr<HttpPages> http_pages;
  std::unique_ptr<base::HttpServer> http_server;

  std::string grpc_address;
  std::string http_address;
  std::atomic<bool> draining{false};
  std::atomic<bool> shut_down{false};
  base::Mutex scrape_mutex;
};

absl::Status StoreServer::Impl::Build(ServerOptions given) {
  options = std::move(given);
  VARVE_RETURN_IF_ERROR(ValidateStoreConfig(options.config));
  VARVE_RETURN_IF_ERROR(MakeRooms());
  VARVE_RETURN_IF_ERROR(ServeGrpc());
  return options.listen ? ServeHttp() : absl::OkStatus();
}

absl::Status StoreServer::Impl::MakeRooms() {
  const varve::v1::StoreConfig& config = options.config;
  metrics = std::make_unique<StoreMetrics>(registry, base::kVersion, base::kCommit);
  base::DeclareProcessMetrics(registry);
  registry.OnScrape([this] {
    base::MutexLock lock(scrape_mutex);
    BeforeScrape();
  });

  tier::HostTierOptions tier_options;
  tier_options.capacity_bytes = config.host_tier().capacity_bytes();
  tier_options.max_capacity_bytes = tier::MachineMemoryBytes();
  tier_options.huge_pages = config.host_tier().huge_pages();
  VARVE_ASSIGN_OR_RETURN(host_tier, tier::HostTier::Create(tier_options));

  store::PageStoreOptions store_options;
  store_options.eviction = config.host_tier().eviction();
  store_options.low_watermark = config.host_tier().low_watermark();
  store_options.high_watermark = config.host_tier().high_watermark();
  store_options.max_object_bytes = config.sessions().max_object_bytes();
  store_options.on_evicted = [m = metrics.get()](store::TierId tier, uint64_t bytes,
                                                 double idle_seconds) {
    m->ObserveEviction(tier, bytes, idle_seconds);
  };
  store_options.on_moved = [m = metrics.get()](store::MoveCause cause, uint64_t bytes) {
    m->CountMoved(cause, bytes);
  };
  if (!config.nvme_tier().directories().empty()) {
    VARVE_ASSIGN_OR_RETURN(disk, DiskStack::Open(config.nvme_tier(), *metrics));
    store_options.disk = disk->options();
    store_options.disk->max_write_wait =
        absl::Milliseconds(config.transport().transfer_deadline_ms());
  }
  VARVE_ASSIGN_OR_RETURN(
      pages, store::PageStore::Create(host_tier.get(), store_options, &base::SystemClock::Get()));
  recall::ContextTableOptions context_options;
  context_options.threads = config.recall().threads();
  context_options.max_digest_bytes = config.recall().max_digest_bytes();
  context_options.max_contexts = config.recall().max_contexts();
  context_options.max_blocks = config.recall().max_blocks();
  context_options.parked_ttl = config.recall().parked_ttl_ms() == 0
                                   ? absl::InfiniteDuration()
                                   : absl::Milliseconds(config.recall().parked_ttl_ms());
  context_options.journal = pages->journal();
  VARVE_ASSIGN_OR_RETURN(contexts, recall::ContextTable::Create(pages.get(), context_options));

  data_pool = std::make_unique<base::ThreadPool>("data", DataThreads());
  put_pool = std::make_unique<base::ThreadPool>("put", DataThreads());
  recall_pool =
      std::make_unique<base::ThreadPool>("recall", static_cast<int>(config.recall().threads()));
  control_pool = std::make_unique<base::ThreadPool>("control", kControlThreads);
  sessions = std::make_unique<SessionTable>(
      SessionLimits{config.sessions().max_sessions(), config.sessions().max_regions(),
                    config.sessions().max_registered_bytes()},
      control_pool.get(), [this](uint64_t number) {
        contexts->DetachSession(number);
        pages->UnpinAll(number);
        // Not here, where the session is locked.
        data_pool->Run([this, number] { streams.CloseSession(number, SessionEnded()); });
      });
  connect_pool = std::make_unique<base::ThreadPool>("connect", kConnectThreads);
  core.reset(new Core{options.config, *metrics, *pages, *contexts, *sessions, streams,
                      *options.transport, *data_pool, *put_pool, *recall_pool, *connect_pool,
                      *control_pool, disk == nullptr ? "" : disk->io_name()});
  const absl::Duration idle = IdleLimit(*core);
  ticker = std::make_unique<Ticker>(
      "watch", std::clamp(idle / 4, absl::Milliseconds(10), absl::Seconds(1)), [this, idle] {
        streams.CloseOverdue(
            absl::Now(), absl::DeadlineExceededError(absl::StrCat(
                             "the client let the stream wait for ", absl::FormatDuration(idle),
                             " (sessions.inline_idle_ms); what was held for it is given back")));
        contexts->ExpireParked();
        pages->Tick();
      });
  if (disk != nullptr) {
    notes_ticker =
        std::make_unique<Ticker>("notes", kNotesInterval, [this] { contexts->WriteNotes(); });
  }
  return absl::OkStatus();
}

absl::Status StoreServer::Impl::ServeGrpc() {
  admin = std::make_unique<AdminService>(*core, options.config_text, [this] { StartDraining(); });
  tiers = std::make_unique<TierAdmin>(*core, disk == nullptr ? nullptr : &disk->log());
  service = MakeStoreService(*core, *admin, *tiers);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetChannelArguments(builder);
  builder.RegisterService(service.get());
  int port = 0;
  const std::string& listen = options.config.listen();
  std::string bind = listen;
  if (absl::string_view path = listen; options.listen && absl::ConsumePrefix(&path, "unix:")) {
    VARVE_ASSIGN_OR_RETURN(socket, base::UnixSocket::Claim(std::string(path)));
    bind = absl::StrCat("unix:", socket->bind_path());
  }
  if (options.listen) builder.AddListeningPort(bind, grpc::InsecureServerCredentials(), &port);
  grpc_server = builder.BuildAndStart();
  if (grpc_server == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve gRPC on ", listen, ": ", base::WhyNotBound(listen)));
  }
  if (socket != nullptr) VARVE_RETURN_IF_ERROR(socket->Publish());
  if (options.listen) grpc_address = BoundAddress(listen, port);
  grpc_server->GetHealthCheckService()->SetServingStatus("varve.v1.Store", true);
  return absl::OkStatus();
}

absl::Status StoreServer::Impl::ServeHttp() {
  const std::string& listen = options.config.http_listen();
  if (listen.empty()) return absl::OkStatus();
  http_pages = std::make_unique<HttpPages>(*core, *admin, registry);
  VARVE_ASSIGN_OR_RETURN(http_server, base::HttpServer::Start(listen, http_pages->Handlers()));
  http_address = BoundAddress(listen, http_server->port());
  return absl::OkStatus();
}

void StoreServer::Impl::BeforeScrape() {
  metrics->Mirror(pages->Usage());
  metrics->sessions->Set(static_cast<double>(sessions->size()));
  metrics->contexts->Set(static_cast<double>(contexts->size()));
  const recall::ExpiredContexts expired = contexts->expired();
  StoreMetrics::Raise(metrics->contexts_expired_by_age, expired.by_age);
  StoreMetrics::Raise(metrics->contexts_expired_for_room, expired.for_room);
  const recall::KeptContexts kept = contexts->kept();
  metrics->contexts_left->Set(static_cast<double>(kept.left));
  StoreMetrics::Raise(metrics->contexts_forgotten, kept.forgotten);
  metrics->registered_bytes->Set(static_cast<double>(sessions->registered_bytes()));
}

absl::StatusOr<std::unique_ptr<StoreServer>> StoreServer::Start(ServerOptions options) {
  auto impl = std::make_unique<Impl>();
  const absl::Status status = impl->Build(std::move(options));
  // From here on the destructor cleans up, however far Build came.
  std::unique_ptr<StoreServer> server(new StoreServer(std::move(impl)));
  if (!status.ok()) return status;
  return server;
}

StoreServer::StoreServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StoreServer::~StoreServer() { Shutdown(absl::ZeroDuration()); }

std::shared_ptr<grpc::Channel> StoreServer::InProcessChannel() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return impl_->grpc_server->InProcessChannel(arguments);
}

const std::string& StoreServer::grpc_address() const { return impl_->grpc_address; }
const std::string& StoreServer::http_address() const { return impl_->http_address; }

void StoreServer::Impl::StartDraining() {
  if (draining.exchange(true)) return;
  base::LogInfo("draining: ", sessions->size(), " sessions");
  grpc_server->GetHealthCheckService()->SetServingStatus(false);
  sessions->Close();
  sessions->EndAll(EndMode::kGraceful, absl::OkStatus());
  streams.CloseAll(absl::UnavailableError("the store is draining"));
}

void StoreServer::Impl::FlushToDisk(absl::Time deadline) {
  if (disk == nullptr) return;
  contexts->WriteNotes();
  auto flushed = std::make_shared<std::promise<void>>();
  pages->Flush([flushed](const absl::Status&) { flushed->set_value(); });
  const bool ended =
      flushed->get_future().wait_until(absl::ToChronoTime(deadline)) == std::future_status::ready;
  const store::PageStoreUsage usage = pages->Usage();
  if (usage.disk->objects == usage.objects) return;
  base::LogWarning("host memory was not written to disk",
                   ended ? ", which did not take all of it" : " within drain_ms", ": of ",
                   usage.objects, " objects ", usage.disk->objects, " are there");
}

void StoreServer::StartDraining() { impl_->StartDraining(); }

bool StoreServer::Shutdown(absl::Duration grace) {
  if (impl_->shut_down.exchange(true) || impl_->grpc_server == nullptr) return true;
  const absl::Time deadline = absl::Now() + grace;
  impl_->StartDraining();
  // A client that holds up its transfer must not take the time for writing memory to disk.
  if (impl_->disk != nullptr) impl_->pages->Flush([](const absl::Status&) {});
  const bool finished = impl_->sessions->AwaitNone(impl_->disk == nullptr ? grace : grace / 2);
  if (!finished) {
    if (grace > absl::ZeroDuration()) {
      base::LogWarning("transfers in flight did not finish within ", absl::FormatDuration(grace),
                       " and are cancelled");
    }
    impl_->sessions->CloseEndpoints();
  }
  impl_->FlushToDisk(deadline);
  impl_->pages->StopWaiting();
  impl_->tiers->Close();
  impl_->http_server.reset();
  // Calls without a transfer: a moment is enough for those that are not waiting for something.
  impl_->grpc_server->Shutdown(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
  impl_->grpc_server->Wait();
  impl_->sessions->AwaitNone(absl::InfiniteDuration());
  return finished;
}

}  // namespace varve::server
