#include "client/bench/tier_bench.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/bench/folder.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::client {
namespace {

constexpr uint64_t kSegmentBytes = 256 << 20;
constexpr uint32_t kBatch = 16;

page::ObjectKey KeyOf(uint64_t number) {
  std::string bytes = "tier-bench/";
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
  return *page::ObjectKey::FromBytes(bytes);
}

class TierBench {
 public:
  TierBench(const TierBenchOptions& tiers, const BenchOptions& bench)
      : tiers_(tiers), bench_(bench), progress_("objects written", tiers.objects) {}

  absl::StatusOr<std::vector<BenchRow>> Run() {
    VARVE_RETURN_IF_ERROR(CheckRoom());
    VARVE_ASSIGN_OR_RETURN(folder_, Folder::Make(tiers_.directory));
    VARVE_RETURN_IF_ERROR(Start());
    VARVE_RETURN_IF_ERROR(Fill());
    VARVE_RETURN_IF_ERROR(Stop());
    VARVE_RETURN_IF_ERROR(Restart("restart_footers"));
    VARVE_RETURN_IF_ERROR(CompareTiers());
    VARVE_RETURN_IF_ERROR(Stop());
    VARVE_RETURN_IF_ERROR(SpoilFooters());
    VARVE_RETURN_IF_ERROR(Restart("restart_scan"));
    VARVE_RETURN_IF_ERROR(Pressure());
    return std::move(rows_);
  }

 private:
  // They take half of host memory; the others move down.
  uint64_t hot_objects() const { return std::max<uint64_t>(tiers_.objects / 16, kBatch); }
  uint64_t host_bytes() const {
    return std::max<uint64_t>(2 * hot_objects() * tiers_.value_bytes, 64 << 20);
  }

  uint64_t stored_bytes() const { return tiers_.objects * (tiers_.value_bytes + 8192); }

  absl::Status CheckRoom() const {
    const uint64_t needed = stored_bytes() + 8 * kSegmentBytes;
    const uint64_t there = std::filesystem::space(tiers_.directory).available;
    if (there >= needed) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat(tiers_.objects, " objects of ", base::FormatBytes(tiers_.value_bytes),
                     " take ", base::FormatBytes(needed), "; ", tiers_.directory, " has ",
                     base::FormatBytes(there), ": give fewer --objects or another --dir"));
  }

  absl::Status Start() {
    ChildProcess::Options child;
    child.stopped = &console::CheckStopped;
    child.binary = "varve-store";
    // Twice what is stored, and room for reclaim.
    const uint64_t capacity = 2 * stored_bytes() + 8 * kSegmentBytes;
    child.args = {"--listen=127.0.0.1:0",
                  "--http_listen=127.0.0.1:0",
                  "--log_level=warning",
                  "--drain_ms=2m",
                  absl::StrCat("--host_tier.capacity_bytes=", host_bytes()),
                  absl::StrCat("--sessions.max_object_bytes=", tiers_.value_bytes),
                  absl::StrCat("--nvme_tier.directories=", folder_->path(), "=", capacity),
                  absl::StrCat("--nvme_tier.segment_bytes=", kSegmentBytes),
                  "--nvme_tier.staging_bytes=64MiB",
                  "--nvme_tier.promote_uses=0",
                  absl::StrCat("--nvme_tier.io=", tiers_.io)};
    child.ready_timeout = absl::Minutes(10);
    VARVE_ASSIGN_OR_RETURN(store_.process, ChildProcess::Start(child));
    store_.address = store_.process->ready("grpc");
    return Connect(client_, memory_);
  }
  absl::Status Connect(std::unique_ptr<Client>& client, std::unique_ptr<Memory>& memory) const {
    VARVE_ASSIGN_OR_RETURN(client, OpenClient(bench_, store_));
    VARVE_ASSIGN_OR_RETURN(memory, client->Allocate(kBatch * tiers_.value_bytes));
    return absl::OkStatus();
  }
  absl::Status Stop() {
    memory_.reset();
    client_.reset();
    store_.process->Signal(SIGTERM);
    VARVE_ASSIGN_OR_RETURN(const int code, store_.process->Wait(absl::Minutes(3)));
    if (code == 0) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("varve-store ended with ", code));
  }

  absl::Status PutBatch(Client& client, Memory& memory, uint64_t first, uint64_t count) const {
    std::vector<PutItem> items;
    for (uint64_t i = 0; i < count; ++i) {
      items.push_back({.key = KeyOf(first + i),
                       .sources = {{&memory, i * tiers_.value_bytes, tiers_.value_bytes}}});
    }
    VARVE_ASSIGN_OR_RETURN(const auto results, client.Put(items));
    for (const PutResult& result : results) VARVE_RETURN_IF_ERROR(CheckStored(result));
    return absl::OkStatus();
  }
  absl::Status GetBatch(Client& client, Memory& memory, std::vector<uint64_t> numbers) const {
    std::vector<GetItem> items;
    for (size_t i = 0; i < numbers.size(); ++i) {
      items.push_back({.key = KeyOf(numbers[i]),
                       .range = {},
                       .destinations = {{&memory, i * tiers_.value_bytes, tiers_.value_bytes}}});
    }
    VARVE_ASSIGN_OR_RETURN(const auto results, client.Get(items));
    for (const GetResult& result : results) VARVE_RETURN_IF_ERROR(CheckHit(result));
    return absl::OkStatus();
  }

  void AddRate(const std::string& op, double seconds, uint64_t objects, bool bytes) {
    Series series;
    const double units =
        static_cast<double>(objects) * (bytes ? static_cast<double>(tiers_.value_bytes) : 1.0);
    series.rate_per_round.push_back(units / seconds);
    rows_.push_back(
        MakeRow(op, bench_, bytes ? tiers_.value_bytes : 0, bytes ? kBatch : 1, 1, series));
    rows_.back().extra["seconds"] = seconds;
  }

  absl::Status Fill() {
    const double start = NowSeconds();
    for (uint64_t i = 0; i < tiers_.objects; i += kBatch) {
      VARVE_RETURN_IF_ERROR(console::CheckStopped());
      VARVE_RETURN_IF_ERROR(
          PutBatch(*client_, *memory_, i, std::min<uint64_t>(kBatch, tiers_.objects - i)));
      progress_.Update(i, "");
    }
    progress_.Finish();
    AddRate("fill", NowSeconds() - start, tiers_.objects, true);
    return absl::OkStatus();
  }

  absl::Status Restart(const std::string& op) {
    VARVE_RETURN_IF_ERROR(Start());
    VARVE_ASSIGN_OR_RETURN(const StoreStatus status, client_->Status());
    for (const TierInfo& tier : status.tiers) {
      if (tier.tier != Tier::kNvme) continue;
      if (tier.recovered_objects != tiers_.objects) {
        return absl::DataLossError(absl::StrCat("of ", tiers_.objects, " objects ",
                                                tier.recovered_objects, " are there again"));
      }
      AddRate(op, absl::ToDoubleSeconds(tier.recovery_time), tiers_.objects, false);
    }
    return absl::OkStatus();
  }

  // The last block of each file: what is left has to be scanned.
  absl::Status SpoilFooters() const {
    const std::vector<char> zeros(4096);
    for (const auto& entry : std::filesystem::directory_iterator(folder_->path())) {
      if (entry.path().extension() != ".seg") continue;
      const int fd = open(entry.path().c_str(), O_WRONLY | O_CLOEXEC);
      if (fd < 0) return absl::ErrnoToStatus(errno, entry.path().string());
      const ssize_t written = pwrite(fd, zeros.data(), zeros.size(),
                                     static_cast<off_t>(entry.file_size() - zeros.size()));
      const int error = errno;
      close(fd);
      if (written != static_cast<ssize_t>(zeros.size())) {
        return absl::ErrnoToStatus(error, entry.path().string());
      }
    }
    return absl::OkStatus();
  }

  // The hot objects are put anew and pinned, so that they are and stay in host memory.
  absl::Status Heat() {
    std::vector<page::ObjectKey> keys;
    for (uint64_t i = 0; i < hot_objects(); ++i) keys.push_back(KeyOf(i));
    VARVE_RETURN_IF_ERROR(client_->Remove(keys, true).status());
    for (uint64_t i = 0; i < hot_objects(); i += kBatch) {
      VARVE_RETURN_IF_ERROR(
          PutBatch(*client_, *memory_, i, std::min<uint64_t>(kBatch, hot_objects() - i)));
    }
    return client_->Pin(keys, absl::InfiniteDuration()).status();
  }
  std::vector<uint64_t> Some(uint64_t first, uint64_t end, uint32_t count) {
    std::vector<uint64_t> numbers;
    for (uint32_t i = 0; i < count; ++i) numbers.push_back(first + random_() % (end - first));
    return numbers;
  }

  absl::Status CompareTiers() {
    VARVE_RETURN_IF_ERROR(Heat());
    const double bytes = kBatch * static_cast<double>(tiers_.value_bytes);
    const auto get = [&](uint64_t first, uint64_t end) {
      return [this, first, end, bytes](double seconds, Series& series) {
        return TimedLoop(seconds, bytes, series,
                         [&] { return GetBatch(*client_, *memory_, Some(first, end, kBatch)); });
      };
    };
    VARVE_ASSIGN_OR_RETURN(
        const auto series,
        Compete({{"host", get(0, hot_objects())}, {"nvme", get(hot_objects(), tiers_.objects)}},
                bench_.rounds, bench_.seconds));
    for (const char* tier : {"host", "nvme"}) {
      rows_.push_back(MakeRow(absl::StrCat("get_", tier), bench_, tiers_.value_bytes, kBatch, 1,
                              series.at(tier)));
    }
    rows_.back().extra["ratio_host"] = MedianRatio(series.at("nvme"), series.at("host"));
    return absl::OkStatus();
  }

  // Puts new objects until told to stop, so that the store demotes, evicts and reclaims all the
  // time.
  class Putter {
   public:
    explicit Putter(TierBench& bench) : bench_(bench) {}
    absl::Status Start() {
      VARVE_RETURN_IF_ERROR(bench_.Connect(client_, memory_));
      thread_ = std::thread([this] {
        while (!stop_.load() && status_.ok()) {
          status_ = bench_.PutBatch(*client_, *memory_, bench_.next_, kBatch);
          bench_.next_ += kBatch;
        }
      });
      return absl::OkStatus();
    }
    absl::Status Stop() {
      stop_.store(true);
      if (thread_.joinable()) thread_.join();
      return status_;
    }
    ~Putter() { Stop().IgnoreError(); }

   private:
    TierBench& bench_;
    std::unique_ptr<Client> client_;
    std::unique_ptr<Memory> memory_;
    std::atomic<bool> stop_{false};
    absl::Status status_;
    std::thread thread_;
  };

  // Single gets of hot objects, the store idle and under pressure in turns.
  absl::Status Pressure() {
    VARVE_RETURN_IF_ERROR(Heat());
    next_ = tiers_.objects;
    const auto get = [this](double seconds, Series& series) {
      return TimedLoop(seconds, static_cast<double>(tiers_.value_bytes), series,
                       [&] { return GetBatch(*client_, *memory_, Some(0, hot_objects(), 1)); });
    };
    uint64_t put = 0;
    double put_seconds = 0;
    const auto pressed = [&](double seconds, Series& series) -> absl::Status {
      Putter putter(*this);
      const uint64_t before = next_;
      const double start = NowSeconds();
      VARVE_RETURN_IF_ERROR(putter.Start());
      VARVE_RETURN_IF_ERROR(get(seconds, series));
      VARVE_RETURN_IF_ERROR(putter.Stop());
      put += next_ - before;
      put_seconds += NowSeconds() - start;
      return absl::OkStatus();
    };
    VARVE_ASSIGN_OR_RETURN(const auto series, Compete({{"idle", get}, {"pressed", pressed}},
                                                      bench_.rounds, bench_.seconds));
    for (const char* name : {"idle", "pressed"}) {
      rows_.push_back(MakeRow(absl::StrCat("get_host_", name), bench_, tiers_.value_bytes, 1, 1,
                              series.at(name)));
    }
    rows_.back().extra["ratio_p99_idle"] = Quantile(series.at("pressed").batch_seconds, 0.99) /
                                           Quantile(series.at("idle").batch_seconds, 0.99);
    rows_.back().extra["put_gb_per_s"] =
        static_cast<double>(put * tiers_.value_bytes) / put_seconds / 1e9;
    return absl::OkStatus();
  }

  const TierBenchOptions& tiers_;
  const BenchOptions& bench_;
  console::Progress progress_;
  std::mt19937_64 random_{7};
  std::unique_ptr<Folder> folder_;
  BenchStore store_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Memory> memory_;
  uint64_t next_ = 0;  // the first number that no object has
  std::vector<BenchRow> rows_;
};

}  // namespace

void AddTiersCommand(CLI::App& app, TierBenchOptions& tiers) {
  CLI::App* sub = app.add_subcommand(
      "tiers", "the nvme tier: fill it, restart, get from it, and host memory under pressure");
  sub->add_option("--dir", tiers.directory,
                  "A directory of the disk; one is made there and removed")
      ->required()
      ->check(CLI::ExistingDirectory);
  sub->add_option("--objects", tiers.objects, "Objects to store (default 20000)")
      ->check(CLI::Range(256, 100000000));
  sub->add_option_function<std::string>(
      "--size",
      [&tiers](const std::string& text) {
        const auto bytes = base::ParseBytes(text);
        if (!bytes.ok())
          throw CLI::ValidationError("--size", std::string(bytes.status().message()));
        if (*bytes < 4096 || *bytes > (16 << 20))
          throw CLI::ValidationError("--size", text + ": allowed 4KiB to 16MiB");
        tiers.value_bytes = *bytes;
      },
      "Bytes of each (default 128KiB)");
  sub->add_option("--io", tiers.io, "auto (default), io_uring or threads")
      ->check(CLI::IsMember({"auto", "io_uring", "threads"}));
}

absl::StatusOr<std::vector<BenchRow>> BenchTiers(const TierBenchOptions& tiers,
                                                 const BenchOptions& bench) {
  if (!bench.store.empty()) {
    return absl::InvalidArgumentError("--store: tiers starts a store of its own");
  }
  return TierBench(tiers, bench).Run();
}

}  // namespace varve::client
