// What our services share as programs: command line, settings from all sources, the ready line,
// signals and draining.
//
// One thread: main's. Results go to standard output, problems and log lines to standard error.
#pragma once

#include <signal.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "kvstore/base/config.h"

namespace varve::base {

// First thing in main: sets the libraries up for service. Silences gRPC's own log, unless
// GRPC_VERBOSITY is set. SIGHUP does what it did when the program started: UCX takes it when it is
// loaded, so that the end of a terminal would not end the program.
void SetUpProcess();

// Asks the kernel for short turns of the calling thread and those it starts: who wakes up for a
// request then waits for turns of a tenth of a millisecond, not for the longer ones that are usual,
// where others copy and compute. Linux 6.12 and later; nothing elsewhere, nor in real-time classes.
void PreferShortTurns();

struct ProgramText {
  std::string name;  // "varve-store"
  std::string help;  // all but the list of settings
  // Variables that begin with VARVE_ and are another program's: "VARVE_STORE".
  std::vector<std::string> foreign_environment;
};

// The settings of a program: command line over environment (VARVE_...) over file over the defaults
// in `config`, which outlives this.
class ProgramSettings {
 public:
  ProgramSettings(ProgramText text, google::protobuf::Message* config);

  // args: without the program's name. The exit code when there is nothing more to do: 0 after
  // --help, --version or --print-config; 2 when something is wrong, all of it listed, `validate`'s
  // findings included.
  std::optional<int> Load(const std::vector<std::string>& args,
                          const std::function<absl::Status()>& validate);
  // Every setting, its value and where it came from.
  std::string Print() const { return loader_.Print(); }

 private:
  void UseFile(const std::string& file, std::string_view named_by);
  void ParseOwnFlags(const std::vector<std::string>& args);
  void LoadSources();
  void Note(const absl::Status& status);

  const ProgramText text_;
  ConfigLoader loader_;
  bool help_ = false;
  bool version_ = false;
  bool print_config_ = false;
  std::optional<std::string> config_file_;
  std::vector<std::string> settings_;
  std::vector<std::string> problems_;
};

// One line of JSON on standard output: ready, the fields, pid and version.
void PrintReadyLine(const std::vector<std::pair<std::string, std::string>>& fields);
// A program that cannot start says why; returns its exit code.
int FailedToStart(const ProgramText& text, const absl::Status& why);

// SIGTERM, SIGINT and SIGHUP: blocked, and heard by the methods below alone. Make it before any
// thread starts, so that all inherit the mask.
class StopSignals {
 public:
  StopSignals();

  // True when one came within the time.
  bool Wait(absl::Duration patience) const;
  // Waits for one, then lets shut_down(grace) run; a second one ends the process at once with exit
  // code 128 + signal. Returns the exit code. A process that is still there `patience` after the
  // grace, in shut_down or later, ends at once with exit code 1.
  int ServeUntilStopped(absl::Duration grace, const std::function<void(absl::Duration)>& shut_down,
                        absl::Duration patience = absl::InfiniteDuration()) const;

 private:
  // The next one; negative when none came within the limit. Null: no limit.
  int Next(const timespec* limit) const;

  sigset_t signals_;
};

}  // namespace varve::base
