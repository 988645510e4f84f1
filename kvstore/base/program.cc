#include "kvstore/base/program.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <map>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/base/version.h"

namespace varve::base {
namespace {

constexpr const char* kEnvPrefix = "VARVE_";

struct sigaction hangup_at_start {};

void NoteHangup() { sigaction(SIGHUP, nullptr, &hangup_at_start); }

// Of a program, these run before the constructors of its libraries, UCX's among them.
[[gnu::section(".preinit_array"), gnu::used]] void (*const note_hangup)() = NoteHangup;

}  // namespace

void SetUpProcess() {
  // Debian builds gRPC's mutexes with their deadlock detector on: a good part of the price of a
  // call.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // What goes wrong in a call, gRPC answers as a status; its own log only repeats it, at length.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  sigaction(SIGHUP, &hangup_at_start, nullptr);
}

void PreferShortTurns() {
  // As in linux/sched/types.h, which newer C libraries contradict.
  struct Attributes {
    uint32_t size = sizeof(Attributes);
    uint32_t policy = 0;
    uint64_t flags = 0;
    int32_t nice = 0;
    uint32_t priority = 0;
    uint64_t runtime_ns = 0, deadline_ns = 0, period_ns = 0;
    uint32_t util_min = 0, util_max = 0;
  } attributes;
  constexpr uint64_t kTurnNs = 100'000;  // the least that the kernel takes
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
  if (attributes.policy != SCHED_OTHER) return;
  attributes.runtime_ns = kTurnNs;
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

ProgramSettings::ProgramSettings(ProgramText text, google::protobuf::Message* config)
    : text_(std::move(text)), loader_(config, kEnvPrefix) {}

void ProgramSettings::Note(const absl::Status& status) {
  if (!status.ok()) problems_.emplace_back(status.message());
}

void ProgramSettings::ParseOwnFlags(const std::vector<std::string>& args) {
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      help_ = true;
    } else if (arg == "--version") {
      version_ = true;
    } else if (arg == "--print-config") {
      print_config_ = true;
    } else if (absl::StartsWith(arg, "--config=")) {
      UseFile(arg.substr(9), "command line: --config");
    } else if (arg == "--config") {
      UseFile(++i < args.size() ? args[i] : "", "command line: --config");
    } else {
      settings_.push_back(arg);
    }
  }
}

void ProgramSettings::UseFile(const std::string& file, std::string_view named_by) {
  if (file.empty()) problems_.push_back(absl::StrCat(Sv(named_by), " needs a file"));
  if (config_file_.has_value()) problems_.push_back(absl::StrCat(Sv(named_by), " is there twice"));
  config_file_ = file;
}

// Every source is read, so that all problems are told at once.
void ProgramSettings::LoadSources() {
  std::map<std::string, std::string> environment = Environment();
  for (const std::string& name : text_.foreign_environment) environment.erase(name);
  const std::string variable = absl::StrCat(kEnvPrefix, "CONFIG");
  const auto file = environment.find(variable);
  if (!config_file_.has_value() && file != environment.end()) UseFile(file->second, variable);
  if (!config_file_.value_or("").empty()) Note(loader_.LoadYamlFile(*config_file_));
  Note(loader_.LoadEnvironment(environment));
  const absl::StatusOr<std::vector<std::string>> unknown = loader_.LoadFlags(settings_);
  Note(unknown.status());
  if (!unknown.ok()) return;
  for (const std::string& arg : *unknown) {
    problems_.push_back(absl::StrCat("command line: unknown argument '", arg, "'",
                                     loader_.Nearest(arg), "; see --help"));
  }
}

std::optional<int> ProgramSettings::Load(const std::vector<std::string>& args,
                                         const std::function<absl::Status()>& validate) {
  ParseOwnFlags(args);
  if (help_) {
    std::printf("%sSettings:\n%s", text_.help.c_str(), loader_.Describe().c_str());
    return 0;
  }
  if (version_) {
    std::printf("%s\n", VersionText(text_.name).c_str());
    return 0;
  }
  LoadSources();
  Note(validate());
  if (!problems_.empty()) {
    std::fprintf(stderr, "%s: the configuration has problems:\n%s\n", text_.name.c_str(),
                 absl::StrJoin(problems_, "\n").c_str());
    return 2;
  }
  if (!print_config_) return std::nullopt;
  std::printf("%s", loader_.Print().c_str());
  return 0;
}

void PrintReadyLine(const std::vector<std::pair<std::string, std::string>>& fields) {
  std::string line = "{\"ready\": true";
  for (const auto& [name, value] : fields) {
    absl::StrAppend(&line, ", \"", name, "\": \"",
                    absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}}), "\"");
  }
  absl::StrAppend(&line, ", \"pid\": ", getpid(), ", \"version\": \"", kVersion, "\"}");
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

int FailedToStart(const ProgramText& text, const absl::Status& why) {
  std::fprintf(stderr, "%s: %s\n", text.name.c_str(), std::string(why.message()).c_str());
  return 1;
}

StopSignals::StopSignals() {
  sigemptyset(&signals_);
  // SIGUSR1 says that the draining is done; SIGHUP that the terminal is gone.
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&signals_, signal);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
}

int StopSignals::Next(const timespec* limit) const {
  for (;;) {
    siginfo_t info{};
    const int signal = sigtimedwait(&signals_, &info, limit);
    if (signal < 0 && errno == EINTR) continue;
    // Nobody else can say that the draining is done.
    if (signal == SIGUSR1 && info.si_pid != getpid()) continue;
    return signal;
  }
}

bool StopSignals::Wait(absl::Duration patience) const {
  const timespec limit = absl::ToTimespec(patience);
  return Next(&limit) > 0;
}

int StopSignals::ServeUntilStopped(absl::Duration grace,
                                   const std::function<void(absl::Duration)>& shut_down,
                                   absl::Duration patience) const {
  int signal = Next(nullptr);
  LogInfo("signal ", signal, ": draining, at most ", absl::FormatDuration(grace));
  if (patience < absl::InfiniteDuration()) {
    std::thread([until = absl::Now() + grace + patience] {
      absl::SleepFor(until - absl::Now());
      LogError("the end takes too long, as when a disk hangs: what is not written by now is lost");
      _exit(1);
    }).detach();
  }
  // The second signal must be heard while the first is being served.
  std::thread drain([&] {
    shut_down(grace);
    kill(getpid(), SIGUSR1);
  });
  signal = Next(nullptr);
  if (signal != SIGUSR1) _exit(128 + signal);
  drain.join();
  return 0;
}

}  // namespace varve::base
