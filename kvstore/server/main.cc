// varve-store: the store as a process.
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
#include "kvstore/base/config.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/server/config.h"
#include "kvstore/server/embedded_store.h"
#include "kvstore/server/server.h"
#include "kvstore/server/version.h"
#include "kvstore/transport/ucx.h"

namespace varve::server {
namespace {

constexpr const char* kEnvPrefix = "VARVE_";

constexpr const char* kHelpHead =
    R"(varve-store: keeps KV-cache pages and answers which of them matter for a query.

  varve-store                                    serve on 127.0.0.1:7411, status page on http://127.0.0.1:7412
  varve-store --host_tier.capacity_bytes=64GiB   give it more memory
  varve-store --config store.yaml                read settings from a file
  varve-store --print-config                     show every setting, its value and where it came from, and exit

When it serves, it prints one line of JSON with the bound addresses to standard output; log lines go to standard error.
SIGTERM or SIGINT drains: no new sessions, transfers in flight finish, exit 0 within drain_ms. A second one exits at once.

Settings come from the command line, else from the environment (VARVE_HOST_TIER_CAPACITY_BYTES=64GiB), else from the
file (nested YAML under the same names), else from the default. Sizes (64GiB) and durations (30s) work in all of them.

)";

struct CommandLine {
  std::string config_file;
  bool print_config = false;
  bool help = false;
  bool version = false;
};

// Collects problems instead of stopping at the first.
class Problems {
 public:
  void Add(const absl::Status& status) {
    if (!status.ok()) list_.emplace_back(status.message());
  }
  void Add(const std::string& problem) { list_.push_back(problem); }
  bool empty() const { return list_.empty(); }
  std::string Text() const { return absl::StrJoin(list_, "\n"); }

 private:
  std::vector<std::string> list_;
};

CommandLine ParseOwnFlags(const std::vector<std::string>& args, std::vector<std::string>& rest,
                          Problems& problems) {
  CommandLine line;
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--help" || args[i] == "-h") {
      line.help = true;
    } else if (args[i] == "--version") {
      line.version = true;
    } else if (args[i] == "--print-config") {
      line.print_config = true;
    } else if (absl::StartsWith(args[i], "--config=")) {
      line.config_file = args[i].substr(9);
    } else if (args[i] == "--config") {
      if (i + 1 == args.size()) {
        problems.Add(std::string("command line: --config needs a file"));
      } else {
        line.config_file = args[++i];
      }
    } else {
      rest.push_back(args[i]);
    }
  }
  return line;
}

void LoadSettings(base::ConfigLoader& loader, CommandLine& line,
                  const std::vector<std::string>& flags, Problems& problems) {
  std::map<std::string, std::string> environment = base::Environment();
  // The address of a store, for varvectl and varve-worker; a shell that has it set may start a
  // store too.
  environment.erase(absl::StrCat(kEnvPrefix, "STORE"));
  if (line.config_file.empty()) {
    if (const auto found = environment.find(absl::StrCat(kEnvPrefix, "CONFIG"));
        found != environment.end()) {
      line.config_file = found->second;
    }
  }
  if (!line.config_file.empty()) problems.Add(loader.LoadYamlFile(line.config_file));
  problems.Add(loader.LoadEnvironment(environment));
  const absl::StatusOr<std::vector<std::string>> unknown = loader.LoadFlags(flags);
  problems.Add(unknown.status());
  if (unknown.ok()) {
    for (const std::string& arg : *unknown) {
      problems.Add(absl::StrCat("command line: unknown argument '", arg, "'", loader.Nearest(arg)));
    }
  }
}

absl::StatusOr<std::unique_ptr<StoreServer>> StartServer(const varve::v1::StoreConfig& config,
                                                         std::string config_text) {
  transport::UcxOptions ucx;
  ucx.lanes.assign(config.transport().lanes().begin(), config.transport().lanes().end());
  ucx.devices.assign(config.transport().devices().begin(), config.transport().devices().end());
  ucx.segment_bytes = config.transport().segment_bytes();
  ServerOptions options;
  options.config = config;
  options.config_text = std::move(config_text);
  VARVE_ASSIGN_OR_RETURN(options.transport, transport::MakeUcxTransport(ucx));
  return StoreServer::Start(std::move(options));
}

void PrintReadyLine(const StoreServer& server) {
  std::printf(
      "{\"ready\": true, \"grpc\": \"%s\", \"http\": \"%s\", \"pid\": %d, \"version\": \"%s\"}\n",
      server.grpc_address().c_str(), server.http_address().c_str(), getpid(), kVersion);
  std::fflush(stdout);
}

int ServeUntilSignal(StoreServer& server, const sigset_t& signals, absl::Duration grace) {
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

int Main(const std::vector<std::string>& args) {
  Problems problems;
  std::vector<std::string> flags;
  CommandLine line = ParseOwnFlags(args, flags, problems);
  varve::v1::StoreConfig config = DefaultStoreConfig();
  base::ConfigLoader loader(&config, kEnvPrefix);
  if (line.help) {
    std::printf("%sSettings:\n%s", kHelpHead, loader.Describe().c_str());
    return 0;
  }
  if (line.version) {
    std::printf("varve-store %s (%s)\n", kVersion, kCommit);
    return 0;
  }
  LoadSettings(loader, line, flags, problems);
  problems.Add(ValidateStoreConfig(config));
  if (!problems.empty()) {
    std::fprintf(stderr, "varve-store: the configuration has problems:\n%s\n",
                 problems.Text().c_str());
    return 2;
  }
  if (line.print_config) {
    std::printf("%s", loader.Print().c_str());
    return 0;
  }

  // Before any thread starts, so that all of them inherit the mask and only sigwait hears these.
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  (void)base::SetLogLevel(config.log_level());  // validated above
  absl::StatusOr<std::unique_ptr<StoreServer>> server = StartServer(config, loader.Print());
  if (!server.ok()) {
    std::fprintf(stderr, "varve-store: %s\n", std::string(server.status().message()).c_str());
    return 1;
  }
  base::LogInfo("serving gRPC on ", (*server)->grpc_address(), ", HTTP on ",
                (*server)->http_address());
  PrintReadyLine(**server);
  return ServeUntilSignal(**server, signals, absl::Milliseconds(config.drain_ms()));
}

}  // namespace
}  // namespace varve::server

int main(int argc, char** argv) {
  return varve::server::Main(std::vector<std::string>(argv + 1, argv + argc));
}
