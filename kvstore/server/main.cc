// varve-store: the store as a process.
#include <string>
#include <vector>

#include "kvstore/base/address.h"
#include "kvstore/base/log.h"
#include "kvstore/base/program.h"
#include "kvstore/base/status.h"
#include "kvstore/server/config.h"
#include "kvstore/server/embedded_store.h"
#include "kvstore/server/server.h"
#include "kvstore/transport/ucx.h"

namespace varve::server {
namespace {

constexpr const char* kHelpHead =
    R"(varve-store: keeps KV-cache pages and answers which of them matter for a query.

  varve-store                                    serve on 127.0.0.1:7411, status page on http://127.0.0.1:7412
  varve-store --host_tier.capacity_bytes=64GiB   give it more memory
  varve-store --config store.yaml                read settings from a file
  varve-store --print-config                     show every setting, its value and where it came from, and exit

When it serves, it prints one line of JSON with the bound addresses to standard output; log lines go to standard error.
SIGTERM, SIGINT or SIGHUP drains: no new sessions, transfers in flight finish, exit 0 within drain_ms and a few seconds.
A second one exits at once.

Settings come from the command line, else from the environment (VARVE_HOST_TIER_CAPACITY_BYTES=64GiB), else from the
file (nested YAML under the same names), else from the default. Sizes (64GiB) and durations (30s) work in all of them.

)";

absl::StatusOr<std::unique_ptr<StoreServer>> StartServer(const varve::v1::StoreConfig& config,
                                                         std::string config_text) {
  transport::UcxOptions ucx;
  ucx.lanes.assign(config.transport().lanes().begin(), config.transport().lanes().end());
  ucx.devices.assign(config.transport().devices().begin(), config.transport().devices().end());
  ucx.tcp_this_host_only = base::IsOfThisHost(config.listen());
  ucx.tcp_port_range = config.transport().tcp_port_range();
  ucx.segment_bytes = config.transport().segment_bytes();
  ServerOptions options;
  options.config = config;
  options.config_text = std::move(config_text);
  VARVE_ASSIGN_OR_RETURN(options.transport, transport::MakeUcxTransport(ucx));
  return StoreServer::Start(std::move(options));
}

// After drain_ms, for what waits for a disk. Containers are given 10 s more than drain_ms.
constexpr absl::Duration kPatience = absl::Seconds(9);

int Main(const std::vector<std::string>& args) {
  base::SetUpProcess();
  base::PreferShortTurns();
  // VARVE_STORE is the address of a store, for varvectl and varve-worker; a shell that has it set
  // may start a store too.
  const base::ProgramText text = {"varve-store", kHelpHead, {"VARVE_STORE"}};
  varve::v1::StoreConfig config = DefaultStoreConfig();
  base::ProgramSettings settings(text, &config);
  if (const auto exit = settings.Load(args, [&] { return ValidateStoreConfig(config); })) {
    return *exit;
  }
  const base::StopSignals signals;
  (void)base::SetLogLevel(config.log_level());  // validated above
  const auto server = StartServer(config, settings.Print());
  if (!server.ok()) return base::FailedToStart(text, server.status());
  base::LogInfo("serving gRPC on ", (*server)->grpc_address(), ", HTTP on ",
                (*server)->http_address());
  base::PrintReadyLine({{"grpc", (*server)->grpc_address()}, {"http", (*server)->http_address()}});
  return signals.ServeUntilStopped(
      absl::Milliseconds(config.drain_ms()),
      [&](absl::Duration grace) { (*server)->Shutdown(grace); }, kPatience);
}

}  // namespace
}  // namespace varve::server

int main(int argc, char** argv) {
  return varve::server::Main(std::vector<std::string>(argv + 1, argv + argc));
}
