// What the commands of varvectl share: options, connection, output and exit codes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "nlohmann/json.hpp"

namespace varve::varvectl {

enum ExitCode {
  kDone = 0,
  kFailed = 1,
  kUsage = 2,
  kNotFound = 3,
  kUnreachable = 4,
  kStopped = 130
};

struct Globals {
  std::string store = "127.0.0.1:7411";
  std::string key_namespace = "default";
  std::string timeout = "3s";
  bool json = false;
};

// What to run, chosen by the command line; the status becomes the exit code.
using Action = std::function<absl::Status()>;

// Adds a command: its help ends with the examples, one per line.
CLI::App* AddCommand(CLI::App& app, const std::string& name, const std::string& about,
                     const std::string& examples);

// A client of the store of the command line. sessions: the calls need one (they work on objects or
// contexts).
absl::StatusOr<std::unique_ptr<client::Client>> Dial(const Globals& globals, bool session);

constexpr const char* kKeyHelp = "4 to 63 bytes: text, or hex: and two digits a byte";

// Keys on the command line: text, or hex: and hexadecimal digits.
absl::StatusOr<page::ObjectKey> ParseKey(const std::string& text);
absl::StatusOr<std::vector<page::ObjectKey>> ParseKeys(const std::vector<std::string>& texts);
// The beginning of keys, likewise, of any length.
absl::StatusOr<std::string> ParsePrefix(const std::string& text);
// The same the other way: text when every byte can be printed.
std::string FormatKey(const page::ObjectKey& key);
const char* TierName(client::Tier tier);
nlohmann::json ObjectJson(const client::ObjectInfo& object);

void PrintJson(const nlohmann::json& document);
// One line on standard error that says what happened and what to do.
ExitCode Report(const absl::Status& status);

void AddStoreCommands(CLI::App& app, const Globals& globals, Action& action);
void AddTierCommands(CLI::App& app, const Globals& globals, Action& action);
void AddObjectCommands(CLI::App& app, const Globals& globals, Action& action);
void AddPrefetchCommand(CLI::App& app, const Globals& globals, Action& action);
void AddSnapshotCommand(CLI::App& app, const Globals& globals, Action& action);
void AddFileCommands(CLI::App& app, const Globals& globals, Action& action);
void AddContextCommands(CLI::App& app, const Globals& globals, Action& action);
void AddRecallCommand(CLI::App& app, const Globals& globals, Action& action);

}  // namespace varve::varvectl
