// varve-worker: the worker as a process beside an inference engine.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "gpu_worker/sidecar/config.h"
#include "gpu_worker/sidecar/server.h"
#include "gpu_worker/sidecar/version.h"
#include "kvstore/base/config.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

constexpr const char* kEnvPrefix = "VARVE_";

constexpr const char* kHelpHead =
    R"(varve-worker: keeps the hot KV pages of running sequences beside an inference engine.

  varve-worker                                   engines on unix:/tmp/varve-worker.sock, store on 127.0.0.1:7411
  varve-worker --store 10.0.0.7:7411             another store
  varve-worker --config worker.yaml              read settings from a file
  varve-worker --print-config                    show every setting, its value and where it came from, and exit

It waits for the store; when it serves, it prints one line of JSON with the bound addresses to standard output. Log lines
go to standard error. SIGTERM or SIGINT drains: no new engines, calls under way finish, sequences are closed, exit 0 within
drain_ms. A second one exits at once.

Settings come from the command line, else from the environment (VARVE_POOL_BYTES=8GiB), else from the file (nested YAML
under the same names), else from the default. Sizes (8GiB) and durations (30s) work in all of them.

)";

struct CommandLine {
  std::string config_file;
  bool print_config = false;
  bool help = false;
  bool version = false;
  std::vector<std::string> settings;
};

absl::StatusOr<CommandLine> Parse(const std::vector<std::string>& args) {
  CommandLine line;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      line.help = true;
    } else if (arg == "--version") {
      line.version = true;
    } else if (arg == "--print-config") {
      line.print_config = true;
    } else if (absl::StartsWith(arg, "--config=")) {
      line.config_file = arg.substr(9);
    } else if (arg == "--config") {
      if (++i == args.size())
        return absl::InvalidArgumentError("command line: --config needs a file");
      line.config_file = args[i];
    } else {
      line.settings.push_back(arg);
    }
  }
  return line;
}

// Every source is read, so that all problems are told at once.
absl::Status LoadSettings(base::ConfigLoader& loader, const CommandLine& line) {
  std::vector<std::string> problems;
  const auto note = [&](const absl::Status& status) {
    if (!status.ok()) problems.emplace_back(status.message());
  };
  const std::map<std::string, std::string> environment = base::Environment();
  std::string file = line.config_file;
  if (const auto it = environment.find("VARVE_CONFIG"); file.empty() && it != environment.end()) {
    file = it->second;
  }
  if (!file.empty()) note(loader.LoadYamlFile(file));
  note(loader.LoadEnvironment(environment));
  const auto unknown = loader.LoadFlags(line.settings);
  note(unknown.status());
  if (unknown.ok()) {
    for (const std::string& arg : *unknown) {
      problems.push_back(absl::StrCat("command line: unknown argument '", arg, "'",
                                      loader.Nearest(arg), "; see --help"));
    }
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "\n"));
}

client::ClientOptions ClientOptionsOf(const varve::v1::WorkerConfig& config) {
  client::ClientOptions options;
  options.address = config.store();
  options.client_name = "varve-worker";
  options.key_namespace = config.key_namespace();
  options.lanes.assign(config.transport().lanes().begin(), config.transport().lanes().end());
  options.devices.assign(config.transport().devices().begin(), config.transport().devices().end());
  options.transfer_deadline = absl::Milliseconds(config.transport().transfer_deadline_ms());
  options.connect_timeout = absl::Seconds(2);
  return options;
}

// Tries until the store answers or a signal comes (null then).
absl::StatusOr<std::unique_ptr<client::Client>> ConnectToStore(
    const varve::v1::WorkerConfig& config, const sigset_t& signals) {
  bool told = false;
  while (true) {
    auto connected = client::Client::Connect(ClientOptionsOf(config));
    const bool away =
        absl::IsUnavailable(connected.status()) || absl::IsDeadlineExceeded(connected.status());
    if (connected.ok() || !away) return connected;
    if (!told) base::LogWarning("waiting for the store: ", connected.status().ToString());
    told = true;
    const timespec pause{.tv_sec = 0, .tv_nsec = 500'000'000};
    if (sigtimedwait(&signals, nullptr, &pause) > 0) return std::unique_ptr<client::Client>();
  }
}

int ServeUntilSignal(WorkerServer& server, const sigset_t& signals, absl::Duration grace) {
  int signal = 0;
  sigwait(&signals, &signal);
  base::LogInfo("signal ", signal, ": draining, at most ", absl::FormatDuration(grace));
  // The second signal must be heard while the first is being served.
  std::thread drain([&] {
    server.Shutdown(grace);
    kill(getpid(), SIGUSR1);
  });
  sigwait(&signals, &signal);
  if (signal != SIGUSR1) _exit(128 + signal);
  drain.join();
  return 0;
}

int Serve(const varve::v1::WorkerConfig& config) {
  // Before any thread starts, so that all of them inherit the mask and only sigwait hears these.
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  (void)base::SetLogLevel(config.log_level());  // validated before

  auto store = ConnectToStore(config, signals);
  if (store.ok() && *store == nullptr) return 0;
  absl::StatusOr<std::unique_ptr<WorkerServer>> server =
      store.ok() ? WorkerServer::Start(config, std::move(*store)) : store.status();
  if (!server.ok()) {
    std::fprintf(stderr, "varve-worker: %s\n", std::string(server.status().message()).c_str());
    return 1;
  }
  std::printf(
      "{\"ready\": true, \"grpc\": \"%s\", \"http\": \"%s\", \"store\": \"%s\", \"pid\": %d, "
      "\"version\": \"%s\"}\n",
      (*server)->grpc_address().c_str(), (*server)->http_address().c_str(), config.store().c_str(),
      getpid(), kVersion);
  std::fflush(stdout);
  return ServeUntilSignal(**server, signals, absl::Milliseconds(config.drain_ms()));
}

int Main(const std::vector<std::string>& args) {
  varve::v1::WorkerConfig config = DefaultWorkerConfig();
  base::ConfigLoader loader(&config, kEnvPrefix);
  const absl::StatusOr<CommandLine> line = Parse(args);
  if (line.ok() && line->help) {
    std::printf("%sSettings:\n%s", kHelpHead, loader.Describe().c_str());
    return 0;
  }
  if (line.ok() && line->version) {
    std::printf("varve-worker %s (%s)\n", kVersion, kCommit);
    return 0;
  }
  absl::Status loaded = line.ok() ? LoadSettings(loader, *line) : line.status();
  if (loaded.ok()) loaded = ValidateWorkerConfig(config);
  if (!loaded.ok()) {
    std::fprintf(stderr, "varve-worker: the configuration has problems:\n%s\n",
                 std::string(loaded.message()).c_str());
    return 2;
  }
  if (line->print_config) {
    std::printf("%s", loader.Print().c_str());
    return 0;
  }
  return Serve(config);
}

}  // namespace
}  // namespace varve::worker

int main(int argc, char** argv) {
  return varve::worker::Main(std::vector<std::string>(argv + 1, argv + argc));
}
