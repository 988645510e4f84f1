// put, get and exists: Varve against memcpy, the bare transport loop and Redis, in turns.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/bench/bare_peer.h"
#include "client/bench/bench.h"
#include "client/bench/redis_peer.h"
#include "client/console/stop.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

page::ObjectKey BenchKey(const std::string& run, uint64_t number) {
  std::string bytes = "bench/" + run;
  for (int shift = 56; shift >= 0; shift -= 8)
    bytes.push_back(static_cast<char>((number >> shift) & 0xff));
  return *page::ObjectKey::FromBytes(bytes);
}

// Anonymous memory as large as the working set, touched once.
class Arena {
 public:
  static absl::StatusOr<std::unique_ptr<Arena>> Map(size_t bytes) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return absl::ErrnoToStatus(errno, "memory for the working set");
    madvise(data, bytes, MADV_HUGEPAGE);
    std::memset(data, 1, bytes);
    return std::unique_ptr<Arena>(new Arena(static_cast<char*>(data), bytes));
  }
  ~Arena() { munmap(data_, bytes_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  char* data() { return data_; }

 private:
  Arena(char* data, size_t bytes) : data_(data), bytes_(bytes) {}

  char* const data_;
  const size_t bytes_;
};

// One thread's client-side state. The numbers of its keys that a put bench has stored: [first,
// next).
struct Lane {
  std::unique_ptr<Memory> memory;
  uint64_t first = 0;
  uint64_t next = 0;
};

// Far more values than a thread puts in a run.
constexpr int kLaneShift = 40;

class ObjectBench {
 public:
  ObjectBench(std::string op, const BenchOptions& options, uint64_t size, uint32_t batch,
              uint32_t threads)
      : op_(std::move(op)),
        options_(options),
        size_(size),
        batch_(batch),
        threads_(threads),
        values_(std::max<uint64_t>(options.working_set_bytes / size, uint64_t{batch} * threads)),
        run_(base::RandomBytes(6)) {}

  absl::StatusOr<BenchRow> Run() {
    absl::StatusOr<BenchRow> row = Measure();
    const absl::Status cleaned = CleanUp();
    if (row.ok() && !cleaned.ok()) return base::Annotate(cleaned, "removing the values again");
    return row;
  }

 private:
  bool put() const { return op_ == "put"; }

  absl::StatusOr<BenchRow> Measure() {
    VARVE_RETURN_IF_ERROR(Prepare());
    VARVE_ASSIGN_OR_RETURN(const auto series,
                           Compete(Contestants(), options_.rounds, options_.seconds));
    BenchRow row = MakeRow(op_, options_, size_, batch_, threads_, series.at("varve"));
    for (const auto& [name, other] : series) {
      if (name == "varve") continue;
      row.extra["ratio_" + name] = MedianRatio(series.at("varve"), other);
      row.extra[name + "_gb_per_s"] = other.rate() / 1e9;
    }
    return row;
  }

  absl::Status CleanUp() {
    if (client_ == nullptr || !store_.shared()) return absl::OkStatus();
    if (!put()) return RemoveKeys(0, preloaded_);
    for (Lane& lane : lanes_) VARVE_RETURN_IF_ERROR(RemoveStored(lane));
    return absl::OkStatus();
  }

  absl::Status RemoveStored(Lane& lane) {
    return RemoveKeys(std::exchange(lane.first, lane.next), lane.next);
  }

  // Puts into somebody else's store stay within the working set; in its own store old values are
  // evicted.
  absl::Status KeepToWorkingSet(Lane& lane) {
    if (!put() || !store_.shared() || lane.next - lane.first + batch_ <= values_ / threads_)
      return absl::OkStatus();
    return RemoveStored(lane);
  }

  absl::Status RemoveKeys(uint64_t first, uint64_t end) {
    constexpr uint64_t kBatch = 1024;
    for (uint64_t i = first; i < end; i += kBatch) {
      std::vector<page::ObjectKey> keys;
      for (uint64_t k = i; k < std::min(end, i + kBatch); ++k) keys.push_back(BenchKey(run_, k));
      VARVE_RETURN_IF_ERROR(client_->Remove(keys, /*force=*/false).status());
    }
    return absl::OkStatus();
  }

  absl::Status Prepare() {
    // Room for the working set twice, so that a get bench never meets eviction.
    VARVE_ASSIGN_OR_RETURN(
        store_, OpenStore(options_, std::max<uint64_t>(2 * values_ * size_, 256ull << 20)));
    VARVE_ASSIGN_OR_RETURN(client_, OpenClient(options_, store_));
    VARVE_RETURN_IF_ERROR(CheckRoom(options_, *client_, values_ * size_));
    for (uint32_t t = 0; t < threads_; ++t) {
      Lane lane;
      VARVE_ASSIGN_OR_RETURN(lane.memory, client_->Allocate(batch_ * size_));
      std::memset(lane.memory->bytes().data(), static_cast<int>(t + 1), batch_ * size_);
      lane.first = lane.next = put() ? uint64_t{t} << kLaneShift : t * (values_ / threads_);
      lanes_.push_back(std::move(lane));
    }
    if (!put()) VARVE_RETURN_IF_ERROR(Preload());
    VARVE_ASSIGN_OR_RETURN(arena_, Arena::Map(values_ * size_));
    if (options_.against_redis) {
      VARVE_ASSIGN_OR_RETURN(redis_, RedisPeer::Start(2 * values_ * size_ + (512ull << 20)));
      for (uint64_t i = 0; !put() && i + batch_ <= values_; i += batch_) {
        VARVE_RETURN_IF_ERROR(redis_->Set(i, static_cast<int>(batch_), Buffer(), size_));
      }
    }
    if (options_.transport != "inline") {
      VARVE_ASSIGN_OR_RETURN(bare_, BarePeer::Start(options_.transport, put(), size_, batch_,
                                                    options_.working_set_bytes));
    }
    return absl::OkStatus();
  }

  absl::Status Preload() {
    std::vector<PutItem> items;
    for (uint64_t i = 0; i < values_; ++i) {
      items.push_back(
          {BenchKey(run_, i), {{lanes_[0].memory.get(), (i % batch_) * size_, size_}}, {}, "", {}});
      if (items.size() < batch_ && i + 1 < values_) continue;
      VARVE_RETURN_IF_ERROR(console::CheckStopped());
      preloaded_ = i + 1;
      VARVE_ASSIGN_OR_RETURN(const auto results, client_->Put(items));
      for (const PutResult& result : results) VARVE_RETURN_IF_ERROR(CheckStored(result));
      items.clear();
    }
    return absl::OkStatus();
  }

  absl::Status PutBatch(Lane& lane) {
    std::vector<PutItem> items(batch_);
    for (uint32_t i = 0; i < batch_; ++i) {
      items[i] = {BenchKey(run_, lane.next++), {{lane.memory.get(), i * size_, size_}}, {}, "", {}};
    }
    VARVE_ASSIGN_OR_RETURN(const auto results, client_->Put(items));
    for (const PutResult& result : results) VARVE_RETURN_IF_ERROR(CheckStored(result));
    return absl::OkStatus();
  }

  absl::Status GetBatch(Lane& lane) {
    std::vector<GetItem> items(batch_);
    for (uint32_t i = 0; i < batch_; ++i) {
      items[i] = {
          BenchKey(run_, lane.next++ % values_), {}, {{lane.memory.get(), i * size_, size_}}};
    }
    VARVE_ASSIGN_OR_RETURN(const auto results, client_->Get(items));
    for (const GetResult& result : results) VARVE_RETURN_IF_ERROR(CheckHit(result));
    return absl::OkStatus();
  }

  // All lanes at once for one round; rates add up, latencies are pooled.
  absl::Status VarveRound(double seconds, Series& series) {
    std::vector<Series> parts(threads_);
    std::vector<absl::Status> statuses(threads_);
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < threads_; ++t) {
      threads.emplace_back([&, t] {
        statuses[t] = TimedLoop(
            seconds, static_cast<double>(batch_) * static_cast<double>(size_), parts[t],
            [&] { return put() ? PutBatch(lanes_[t]) : GetBatch(lanes_[t]); },
            [&] { return KeepToWorkingSet(lanes_[t]); });
      });
    }
    for (std::thread& thread : threads) thread.join();
    double rate = 0;
    for (uint32_t t = 0; t < threads_; ++t) {
      VARVE_RETURN_IF_ERROR(statuses[t]);
      rate += parts[t].rate();
      series.batch_seconds.insert(series.batch_seconds.end(), parts[t].batch_seconds.begin(),
                                  parts[t].batch_seconds.end());
    }
    series.rate_per_round.push_back(rate);
    return absl::OkStatus();
  }

  // One core copies values between the working set and one batch's buffer.
  absl::Status MemcpyRound(double seconds, Series& series) {
    char* buffer = Buffer();
    return TimedLoop(seconds, static_cast<double>(batch_ * size_), series, [&] {
      for (uint32_t i = 0; i < batch_; ++i, ++memcpy_next_) {
        char* far = arena_->data() + memcpy_next_ % values_ * size_;
        put() ? std::memcpy(far, buffer + i * size_, size_)
              : std::memcpy(buffer + i * size_, far, size_);
      }
      return absl::OkStatus();
    });
  }

  // Of one batch: whence every contestant puts, and where it gets to.
  char* Buffer() { return reinterpret_cast<char*>(lanes_[0].memory->bytes().data()); }

  absl::Status RedisRound(double seconds, Series& series) {
    return TimedLoop(seconds, static_cast<double>(batch_ * size_), series, [&] {
      const uint64_t first = redis_next_;
      redis_next_ = (redis_next_ + batch_) % (values_ - values_ % batch_);
      return put() ? redis_->Set(first, static_cast<int>(batch_), Buffer(), size_)
                   : redis_->Get(first, static_cast<int>(batch_), Buffer(), size_);
    });
  }

  std::vector<Contestant> Contestants() {
    std::vector<Contestant> all = {
        {"varve", [this](double seconds, Series& series) { return VarveRound(seconds, series); }},
        {"memcpy",
         [this](double seconds, Series& series) { return MemcpyRound(seconds, series); }}};
    if (bare_) {
      all.push_back({"bare_" + options_.transport, [this](double seconds, Series& series) {
                       return bare_->Round(seconds, series);
                     }});
    }
    if (redis_) {
      all.push_back({"redis", [this](double seconds, Series& series) {
                       return RedisRound(seconds, series);
                     }});
    }
    return all;
  }

  const std::string op_;
  const BenchOptions& options_;
  const uint64_t size_;
  const uint32_t batch_, threads_;
  const uint64_t values_;  // in the working set
  const std::string run_;  // keeps the keys of runs apart
  BenchStore store_;
  std::unique_ptr<Client> client_;
  std::vector<Lane> lanes_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<RedisPeer> redis_;
  std::unique_ptr<BarePeer> bare_;
  uint64_t preloaded_ = 0;  // keys [0, preloaded_) may be stored
  uint64_t memcpy_next_ = 0;
  uint64_t redis_next_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<BenchRow>> BenchObjects(const std::string& op,
                                                   const BenchOptions& options) {
  std::vector<BenchRow> rows;
  for (uint64_t size : options.sizes) {
    for (uint32_t batch : options.batches) {
      for (uint32_t threads : options.threads) {
        VARVE_ASSIGN_OR_RETURN(BenchRow row, ObjectBench(op, options, size, batch, threads).Run());
        rows.push_back(std::move(row));
      }
    }
  }
  return rows;
}

absl::StatusOr<std::vector<BenchRow>> BenchExists(const BenchOptions& options) {
  VARVE_ASSIGN_OR_RETURN(const BenchStore store, OpenStore(options, 256ull << 20));
  VARVE_ASSIGN_OR_RETURN(const auto client, OpenClient(options, store));
  std::vector<BenchRow> rows;
  for (uint32_t batch : options.batches) {
    std::vector<page::ObjectKey> keys;
    for (uint32_t i = 0; i < batch; ++i) keys.push_back(BenchKey("absent", i));
    VARVE_ASSIGN_OR_RETURN(const auto series,
                           Compete({{"varve",
                                     [&](double seconds, Series& s) {
                                       return TimedLoop(seconds, batch, s, [&] {
                                         return client->Exists(keys).status();
                                       });
                                     }},
                                    {"grpc_echo",
                                     [&](double seconds, Series& s) {
                                       return TimedLoop(seconds, batch, s, [&] {
                                         return client->Echo(batch * keys[0].bytes().size());
                                       });
                                     }}},
                                   options.rounds, options.seconds));
    BenchRow row = MakeRow("exists", options, 0, batch, 1, series.at("varve"));
    row.extra["ratio_grpc_echo"] = MedianRatio(series.at("varve"), series.at("grpc_echo"));
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace varve::client
