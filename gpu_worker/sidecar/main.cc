// varve-worker: the worker as a process beside an inference engine.
#include <string>
#include <vector>

#include "client/client.h"
#include "gpu_worker/sidecar/config.h"
#include "gpu_worker/sidecar/server.h"
#include "kvstore/base/log.h"
#include "kvstore/base/program.h"

namespace varve::worker {
namespace {

constexpr const char* kHelpHead =
    R"(varve-worker: keeps the hot KV pages of running sequences beside an inference engine.

  varve-worker                                   engines on unix:/tmp/varve-worker.sock, store on 127.0.0.1:7411
  varve-worker --store 10.0.0.7:7411             another store
  varve-worker --config worker.yaml              read settings from a file
  varve-worker --print-config                    show every setting, its value and where it came from, and exit

HTTP answers at once. Engines wait for the store; when they are served, it prints one line of JSON with the bound addresses to
standard output. Log lines go to standard error. SIGTERM, SIGINT or SIGHUP drains: no new engines, calls under way finish, sequences are closed, exit 0
within drain_ms. A second one exits at once.

Settings come from the command line, else from the environment (VARVE_POOL_BYTES=8GiB), else from the file (nested YAML
under the same names), else from the default. Sizes (8GiB) and durations (30s) work in all of them.

)";

client::ClientOptions ClientOptionsOf(const varve::v1::WorkerConfig& config) {
  client::ClientOptions options;
  options.address = config.store();
  options.client_name = "varve-worker";
  options.key_namespace = config.key_namespace();
  options.lanes.assign(config.transport().lanes().begin(), config.transport().lanes().end());
  options.devices.assign(config.transport().devices().begin(), config.transport().devices().end());
  options.tcp_port_range = config.transport().tcp_port_range();
  options.transfer_deadline = absl::Milliseconds(config.transport().transfer_deadline_ms());
  options.connect_timeout = absl::Seconds(2);
  return options;
}

// The store is not there, has all the sessions it may have, or drains before it ends. Other
// preconditions, such as a lane in common, will fail as long as both run.
bool MayPass(const absl::Status& refusal, const WorkerServer& server) {
  return absl::IsUnavailable(refusal) || absl::IsDeadlineExceeded(refusal) ||
         absl::IsResourceExhausted(refusal) ||
         (absl::IsFailedPrecondition(refusal) && !server.AskStore().ok());
}

// Tries until the store takes us or a signal comes (null then).
absl::StatusOr<std::unique_ptr<client::Client>> ConnectToStore(
    const varve::v1::WorkerConfig& config, const WorkerServer& server,
    const base::StopSignals& signals) {
  bool told = false;
  while (true) {
    auto connected = client::Client::Connect(ClientOptionsOf(config));
    if (connected.ok() || !MayPass(connected.status(), server)) return connected;
    if (!told) base::LogWarning("waiting for the store: ", connected.status().ToString());
    told = true;
    if (signals.Wait(absl::Milliseconds(500))) return std::unique_ptr<client::Client>();
  }
}

int Main(const std::vector<std::string>& args) {
  base::SetUpProcess();
  const base::ProgramText text = {"varve-worker", kHelpHead, {}};
  varve::v1::WorkerConfig config = DefaultWorkerConfig();
  base::ProgramSettings settings(text, &config);
  if (const auto exit = settings.Load(args, [&] { return ValidateWorkerConfig(config); })) {
    return *exit;
  }
  const base::StopSignals signals;
  (void)base::SetLogLevel(config.log_level());  // validated above
  const auto server = WorkerServer::Start(config);
  if (!server.ok()) return base::FailedToStart(text, server.status());
  auto store = ConnectToStore(config, **server, signals);
  if (!store.ok()) return base::FailedToStart(text, store.status());
  if (*store == nullptr) return 0;
  (*server)->Open(std::move(*store));
  base::LogInfo("serving engines on ", (*server)->grpc_address(), ", HTTP on ",
                (*server)->http_address());
  base::PrintReadyLine({{"grpc", (*server)->grpc_address()},
                        {"http", (*server)->http_address()},
                        {"store", config.store()}});
  return signals.ServeUntilStopped(absl::Milliseconds(config.drain_ms()),
                                   [&](absl::Duration grace) { (*server)->Shutdown(grace); });
}

}  // namespace
}  // namespace varve::worker

int main(int argc, char** argv) {
  return varve::worker::Main(std::vector<std::string>(argv + 1, argv + argc));
}
