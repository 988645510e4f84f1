// Commands about tiers: what they hold, and changing them while the store runs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "client/varvectl/command.h"
#include "client/varvectl/tier_tables.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/path.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::varvectl {
namespace {

constexpr std::chrono::milliseconds kLook(200);

constexpr const char* kSettingHint =
    "nvme_tier.directories has to be changed too: the next start goes by that";

// What the store answers when long work is over. Shared with the call, which may outlive the
// waiting.
class Answered {
 public:
  // Of work that has no result.
  void SetOver(const absl::Status& status) {
    if (status.ok()) return Set(0);
    Set(status);
  }
  void Set(absl::StatusOr<uint64_t> result) {
    base::MutexLock lock(mutex_);
    result_ = std::move(result);
    changed_.NotifyAll();
  }
  std::optional<absl::StatusOr<uint64_t>> Await(std::chrono::milliseconds timeout) {
    base::MutexLock lock(mutex_);
    if (!result_.has_value()) changed_.WaitFor(mutex_, timeout);
    return result_;
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  std::optional<absl::StatusOr<uint64_t>> result_ ABSL_GUARDED_BY(mutex_);
};

absl::Status ShowTiers(const Globals& globals) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  VARVE_ASSIGN_OR_RETURN(const client::StoreStatus status, client->Status());
  if (globals.json) {
    PrintJson({{"tiers", TiersJson(status)}});
  } else {
    std::printf("%s%s", TierTable(status).c_str(), TierDetails(status).c_str());
  }
  return absl::OkStatus();
}

absl::Status AddDirectory(const Globals& globals, const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no PATH=SIZE, such as /mnt/nvme2/varve=800GiB"));
  }
  const std::string path = text.substr(0, equals);
  VARVE_ASSIGN_OR_RETURN(const uint64_t bytes, base::ParseBytes(text.substr(equals + 1)));
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  VARVE_RETURN_IF_ERROR(client->AddDirectory(path, bytes));
  if (globals.json) {
    PrintJson({{"added", path}, {"capacity_bytes", bytes}});
  } else {
    std::printf("added %s with %s; %s\n", path.c_str(), base::FormatBytes(bytes).c_str(),
                kSettingHint);
  }
  return absl::OkStatus();
}

const client::TierInfo* FindTier(const client::StoreStatus& status, client::Tier tier) {
  const auto found = std::find_if(status.tiers.begin(), status.tiers.end(),
                                  [&](const client::TierInfo& t) { return t.tier == tier; });
  return found == status.tiers.end() ? nullptr : &*found;
}

// What is still to be done of it, in bytes; nothing when it does not show (any more).
using Remaining = std::function<std::optional<uint64_t>(const client::StoreStatus&)>;

Remaining RemainingIn(const std::string& path) {
  return [path](const client::StoreStatus& status) -> std::optional<uint64_t> {
    const client::TierInfo* nvme = FindTier(status, client::Tier::kNvme);
    if (nvme == nullptr) return std::nullopt;
    for (const client::DirectoryInfo& directory : nvme->directories) {
      if (directory.path == path && directory.state == "draining") return directory.live_bytes;
    }
    return std::nullopt;
  };
}

std::optional<uint64_t> RemainingInQueue(const client::StoreStatus& status) {
  const client::TierInfo* nvme = FindTier(status, client::Tier::kNvme);
  if (nvme == nullptr || nvme->queued_bytes == 0) return std::nullopt;
  return nvme->queued_bytes;
}

// Until the store has answered. CANCELLED after Ctrl-C; nothing with no_wait when it has begun.
// doing: "draining host", say.
absl::StatusOr<std::optional<uint64_t>> AwaitWork(const Globals& globals, client::Client& client,
                                                  Answered& answered, const std::string& doing,
                                                  bool no_wait, const Remaining& remaining) {
  std::optional<console::Progress> progress;
  uint64_t total = 0;
  for (;;) {
    if (const auto result = answered.Await(kLook)) {
      if (!result->ok()) return result->status();
      return **result;
    }
    if (console::Stopped()) {
      return absl::CancelledError(
          absl::StrCat("the store goes on ", doing, "; varvectl tiers shows how far it is"));
    }
    const absl::StatusOr<client::StoreStatus> status = client.Status();
    if (!status.ok()) continue;  // the work's own answer says what has happened to the store
    const std::optional<uint64_t> left = remaining(*status);
    if (!left.has_value()) continue;
    if (no_wait) return std::nullopt;
    if (globals.json) continue;
    total = std::max(total, *left);
    if (!progress.has_value()) progress.emplace(doing, total);
    progress->Update(total - *left, base::FormatBytes(*left) + " left");
  }
}

absl::Status DrainDirectory(const Globals& globals, const std::string& what, bool no_wait) {
  const std::string path = base::PlainPath(what);  // as the store shows it
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  auto answered = std::make_shared<Answered>();
  client->DrainDirectoryAsync(
      path, [answered](const absl::Status& status) { answered->SetOver(status); });
  VARVE_ASSIGN_OR_RETURN(
      const std::optional<uint64_t> done,
      AwaitWork(globals, *client, *answered, "draining " + path, no_wait, RemainingIn(path)));
  if (globals.json) {
    PrintJson({{"directory", path}, {"drained", done.has_value()}});
  } else if (done.has_value()) {
    std::printf("%s is drained, and the store has left it; %s\n", path.c_str(), kSettingHint);
  } else {
    std::printf("%s is draining; varvectl tiers shows how far it is\n", path.c_str());
  }
  return absl::OkStatus();
}

absl::Status DrainTier(const Globals& globals, client::Tier tier, bool no_wait) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  auto answered = std::make_shared<Answered>();
  client->DrainTierAsync(
      tier, [answered](absl::StatusOr<uint64_t> left) { answered->Set(std::move(left)); });
  VARVE_ASSIGN_OR_RETURN(
      const std::optional<uint64_t> left,
      AwaitWork(globals, *client, *answered, absl::StrCat("draining ", TierName(tier)), no_wait,
                RemainingInQueue));
  if (globals.json) {
    nlohmann::json row = {{"tier", TierName(tier)}, {"drained", left.has_value()}};
    if (left.has_value()) row["memory_only_objects"] = *left;
    PrintJson(row);
  } else if (!left.has_value()) {
    std::printf("host memory is being written to disk\n");
  } else if (*left == 0) {
    std::printf("everything in host memory is on disk as well\n");
  } else {
    std::printf("host memory is written to disk, but for %s objects that were put since\n",
                absl::StrCat(*left).c_str());
  }
  return absl::OkStatus();
}

absl::Status Drain(const Globals& globals, const std::string& what, bool no_wait) {
  console::StopOnSignals();
  if (what == "host") return DrainTier(globals, client::Tier::kHost, no_wait);
  if (what == "nvme") return DrainTier(globals, client::Tier::kNvme, no_wait);
  if (what.find('/') == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", what, "': drain what? host, or a directory as varvectl tiers shows it"));
  }
  // As the store has it.
  std::string path = what;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return DrainDirectory(globals, path, no_wait);
}

std::optional<uint64_t> RemainingBeyond(const client::StoreStatus& status) {
  const client::TierInfo* host = FindTier(status, client::Tier::kHost);
  if (host == nullptr || host->beyond_bytes == 0) return std::nullopt;
  return host->beyond_bytes;
}

absl::Status Resize(const Globals& globals, const std::string& what, const std::string& size) {
  if (what != "host") {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", what, "': only host has a size to change; nvme gets room by varvectl tiers add"));
  }
  VARVE_ASSIGN_OR_RETURN(const uint64_t bytes, base::ParseBytes(size));
  console::StopOnSignals();
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  auto answered = std::make_shared<Answered>();
  client->ResizeTierAsync(client::Tier::kHost, bytes,
                          [answered](const absl::Status& status) { answered->SetOver(status); });
  VARVE_RETURN_IF_ERROR(
      AwaitWork(globals, *client, *answered, "resizing host", false, RemainingBeyond).status());
  if (globals.json) {
    PrintJson({{"tier", what}, {"capacity_bytes", bytes}});
  } else {
    std::printf(
        "host memory has %s now; host_tier.capacity_bytes has to be changed too: the next start "
        "goes by that\n",
        base::FormatBytes(bytes).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddTierCommands(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* tiers =
      AddCommand(app, "tiers",
                 "Each tier: capacity, use, pinned, queues, age at eviction; and its directories",
                 "  varvectl tiers\n  varvectl tiers add /mnt/nvme2/varve=800GiB\n"
                 "  varvectl tiers drain /mnt/nvme0/varve\n  varvectl tiers resize host 64GiB");

  CLI::App* add = AddCommand(
      *tiers, "add",
      "Give the nvme tier another directory, on the store's host, while the store runs.\n"
      "The store has to be running with an nvme tier. Change nvme_tier.directories too:\n"
      "the next start knows only the directories that stand there.",
      "  varvectl tiers add /mnt/nvme2/varve=800GiB");
  auto directory = std::make_shared<std::string>();
  add->add_option("PATH=SIZE", *directory, "An absolute path, and how much the store may use there")
      ->required();

  CLI::App* drain = AddCommand(
      *tiers, "drain",
      "Empty a directory into the others, and leave it: to replace its disk.\n"
      "Or host: write what is in host memory alone to disk, where it stays in memory too.\n"
      "Waits until it is done; Ctrl-C ends the waiting, not the draining. Change\n"
      "nvme_tier.directories too: the next start takes the directory again if it stands there.",
      "  varvectl tiers drain /mnt/nvme0/varve\n  varvectl tiers drain host --no-wait");
  auto what = std::make_shared<std::string>();
  auto no_wait = std::make_shared<bool>(false);
  drain->add_option("WHAT", *what, "A directory as varvectl tiers shows it, or host")->required();
  drain->add_flag("--no-wait", *no_wait, "Only begin it");

  CLI::App* resize = AddCommand(
      *tiers, "resize",
      "Change the size of host memory while the store runs. Smaller: what no longer fits moves\n"
      "to disk, or is evicted where there is none; what is pinned stays, and so does what is "
      "being\n"
      "read, for as long. Waits until the memory is the system's again; Ctrl-C ends the waiting\n"
      "only. Change host_tier.capacity_bytes too: the next start goes by that.",
      "  varvectl tiers resize host 64GiB");
  auto tier = std::make_shared<std::string>();
  auto size = std::make_shared<std::string>();
  resize->add_option("TIER", *tier, "host")->required();
  resize->add_option("SIZE", *size, "What it shall have, such as 64GiB")->required();

  tiers->callback([&globals, &action, add, drain, resize, directory, what, no_wait, tier, size] {
    if (add->parsed()) {
      action = [&globals, directory] { return AddDirectory(globals, *directory); };
    } else if (drain->parsed()) {
      action = [&globals, what, no_wait] { return Drain(globals, *what, *no_wait); };
    } else if (resize->parsed()) {
      action = [&globals, tier, size] { return Resize(globals, *tier, *size); };
    } else {
      action = [&globals] { return ShowTiers(globals); };
    }
  });
}

}  // namespace varve::varvectl
