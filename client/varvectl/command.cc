#include "client/varvectl/command.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::varvectl {
namespace {

constexpr std::string_view kHexPrefix = "hex:";

const char* Hint(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return "is varve-store running there? Name it with --store HOST:PORT or VARVE_STORE";
    case absl::StatusCode::kInvalidArgument:
      return "see varvectl COMMAND --help";
    case absl::StatusCode::kUnimplemented:
      return "is it a varve-store that listens there?";
    case absl::StatusCode::kResourceExhausted:
      return "see varvectl tiers and varvectl config for the limits";
    default:
      return nullptr;
  }
}

ExitCode CodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kDone;
    case absl::StatusCode::kInvalidArgument:
      return kUsage;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kUnreachable;
    case absl::StatusCode::kCancelled:
      return kStopped;
    default:
      return kFailed;
  }
}

}  // namespace

CLI::App* AddCommand(CLI::App& app, const std::string& name, const std::string& about,
                     const std::string& examples) {
  CLI::App* command = app.add_subcommand(name, about);
  command->fallthrough();
  command->footer(
      absl::StrCat("Examples:\n", examples,
                   "\nAlso: --store, --namespace, --timeout and --json, see varvectl --help."));
  return command;
}

absl::StatusOr<std::unique_ptr<client::Client>> Dial(const Globals& globals, bool session) {
  VARVE_ASSIGN_OR_RETURN(const absl::Duration timeout, base::ParseDuration(globals.timeout));
  if (timeout < absl::Milliseconds(1) || timeout > absl::Hours(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--timeout ", globals.timeout, ": allowed: 1ms to 1h"));
  }
  client::ClientOptions options;
  options.address = globals.store;
  options.client_name = "varvectl";
  options.key_namespace = globals.key_namespace;
  options.lanes.clear();
  options.connect_timeout = timeout;
  options.call_timeout = timeout;
  options.lazy_session = !session;
  return client::Client::Connect(options);
}

absl::StatusOr<page::ObjectKey> ParseKey(const std::string& text) {
  const bool hex = text.starts_with(kHexPrefix);
  const auto key = hex ? page::ObjectKey::FromHex(std::string_view(text).substr(kHexPrefix.size()))
                       : page::ObjectKey::FromBytes(text);
  if (key.has_value()) return *key;
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text, "' is no key: ", page::ObjectKey::kMinBytes, " to ", page::ObjectKey::kMaxBytes,
      " bytes of text, or of hexadecimal digits, two a byte, after 'hex:'"));
}

absl::StatusOr<std::vector<page::ObjectKey>> ParseKeys(const std::vector<std::string>& texts) {
  std::vector<page::ObjectKey> keys;
  for (const std::string& text : texts) {
    absl::StatusOr<page::ObjectKey> key = ParseKey(text);
    if (!key.ok()) return key.status();
    keys.push_back(*key);
  }
  return keys;
}

absl::StatusOr<std::string> ParsePrefix(const std::string& text) {
  if (!text.starts_with("hex:")) return text;
  std::string bytes;
  for (size_t i = 4; i + 1 < text.size(); i += 2) {
    const std::string digits = text.substr(i, 2);
    if (digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) break;
    bytes.push_back(static_cast<char>(std::stoi(digits, nullptr, 16)));
  }
  if (text.size() == 4 + 2 * bytes.size()) return bytes;
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is no prefix: hex: takes two digits a byte"));
}

std::string FormatKey(const page::ObjectKey& key) {
  const std::string_view bytes = key.bytes();
  const bool text =
      std::all_of(bytes.begin(), bytes.end(), [](char c) { return c > ' ' && c < 127; });
  if (text && !bytes.starts_with(kHexPrefix)) return std::string(bytes);
  return absl::StrCat("hex:", key.ToHex());
}

const char* TierName(client::Tier tier) {
  switch (tier) {
    case client::Tier::kGpu:
      return "gpu";
    case client::Tier::kHost:
      return "host";
    case client::Tier::kNvme:
      return "nvme";
    case client::Tier::kNone:
      break;
  }
  return "none";
}

nlohmann::json ObjectJson(const client::ObjectInfo& object) {
  nlohmann::json row = {
      {"key", FormatKey(object.key)},  {"bytes", object.bytes},
      {"tier", TierName(object.tier)}, {"codec", object.codec},
      {"pins", object.pins},           {"crc32c", absl::StrFormat("%08x", object.crc32c)}};
  row["tiers"] = nlohmann::json::array();
  for (const client::Tier tier : object.tiers) row["tiers"].push_back(TierName(tier));
  row["idle_seconds"] = absl::ToDoubleSeconds(object.idle);
  if (object.prompt_tokens != 0) row["prompt_tokens"] = object.prompt_tokens;
  if (object.tokens != 0) row["tokens"] = object.tokens;
  if (object.ttl != absl::InfiniteDuration())
    row["ttl_seconds"] = absl::ToDoubleSeconds(object.ttl);
  if (object.layout.num_kv_heads != 0) {
    row["kv_heads"] = object.layout.num_kv_heads;
    row["part_bytes"] = object.layout.part_bytes;
  }
  return row;
}

void PrintJson(const nlohmann::json& document) {
  std::printf("%s\n",
              document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

ExitCode Report(const absl::Status& status) {
  if (status.ok()) return kDone;
  // A server that does not know the call answers with a code alone.
  std::string text(status.message().empty() ? absl::StatusCodeToString(status.code())
                                            : std::string(status.message()));
  std::replace(text.begin(), text.end(), '\n', ' ');
  const char* hint = Hint(status);
  std::fprintf(stderr, "varvectl: %s%s%s\n", text.c_str(), hint == nullptr ? "" : " - ",
               hint == nullptr ? "" : hint);
  return CodeOf(status);
}

}  // namespace varve::varvectl
