// recall: one store-scored request of one layer, with its time by stage, and what the RPC itself
// costs against a bare gRPC echo of the same bytes; the whole against the sum of its parts' limits.
#include <cmath>
#include <numeric>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/bench/bench.h"
#include "client/console/stop.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/status.h"
#include "kvstore/page/bandwidth.h"
#include "kvstore/page/rerank.h"

namespace varve::client {
namespace {

// Recall threads of a store that is started here; of one that runs already they are taken to be as
// many.
constexpr size_t kStoreThreads = 2;
constexpr int kLimitRepeats = 3;
// Far above a cache.
constexpr size_t kColdBytes = 256 << 20;

class RecallBench {
 public:
  explicit RecallBench(const BenchOptions& options)
      : options_(options),
        pages_per_head_(std::max(1u, options.missing_pages / options.kv_heads)),
        geometry_{1,  options.kv_heads,  options.kv_heads * options.group_size, options.head_dim,
                  32, page::DType::kBF16} {}

  absl::StatusOr<BenchRow> Run() {
    absl::StatusOr<BenchRow> row = Measure();
    const absl::Status cleaned = CleanUp();
    if (row.ok() && !cleaned.ok()) return base::Annotate(cleaned, "removing the context again");
    return row;
  }

 private:
  absl::StatusOr<BenchRow> Measure() {
    const uint64_t context_bytes = uint64_t{options_.pages} * geometry_.object_bytes();
    VARVE_ASSIGN_OR_RETURN(store_,
                           OpenStore(options_, context_bytes + context_bytes / 4 + (256ull << 20),
                                     {absl::StrCat("--recall.threads=", kStoreThreads)}));
    VARVE_ASSIGN_OR_RETURN(client_, OpenClient(options_, store_));
    VARVE_RETURN_IF_ERROR(CheckRoom(options_, *client_, context_bytes));
    VARVE_RETURN_IF_ERROR(FillContext());
    VARVE_RETURN_IF_ERROR(PrepareQuery());
    VARVE_ASSIGN_OR_RETURN(const auto series,
                           Compete(Contestants(), options_.rounds, options_.seconds));
    return Row(series);
  }

  absl::Status CleanUp() {
    if (!opened_ || !store_.shared()) return absl::OkStatus();
    VARVE_RETURN_IF_ERROR(client_->DropContext(context_));
    return client_->Remove(keys_, /*force=*/false).status();
  }

  absl::Status FillContext() {
    context_ = absl::StrCat("bench-", absl::ToUnixMicros(absl::Now()));
    VARVE_ASSIGN_OR_RETURN(const ContextInfo info,
                           client_->OpenContext(context_, geometry_, options_.digest));
    opened_ = true;
    query_.epoch = info.epoch;
    std::vector<std::string> hashes;
    for (uint32_t i = 0; i < options_.pages; ++i)
      hashes.push_back(base::Sha256(absl::StrCat(context_, "/", i)));
    VARVE_RETURN_IF_ERROR(client_->AppendContext(context_, 0, hashes).status());

    constexpr uint32_t kBatch = 32;
    VARVE_ASSIGN_OR_RETURN(source_, client_->Allocate(kBatch * geometry_.object_bytes()));
    // The same random keys in each batch, at other places in the store.
    auto* out = reinterpret_cast<uint16_t*>(source_->bytes().data());
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < source_->bytes().size() / 2; ++i)
      out[i] = page::F32ToBF16(normal(random));
    const std::string rows = DigestsOf(source_->bytes(), kBatch);
    const page::ObjectLayout layout{geometry_.num_kv_heads,
                                    static_cast<uint32_t>(geometry_.part_bytes())};
    for (uint32_t first = 0; first < options_.pages; first += kBatch) {
      VARVE_RETURN_IF_ERROR(console::CheckStopped());
      const uint32_t count = std::min(kBatch, options_.pages - first);
      std::vector<PutItem> items;
      for (uint32_t i = 0; i < count; ++i) {
        keys_.push_back(*page::MakeObjectKey(hashes[first + i], 0));
        items.push_back({keys_.back(),
                         {{source_.get(), i * geometry_.object_bytes(), geometry_.object_bytes()}},
                         layout,
                         "",
                         {}});
      }
      VARVE_ASSIGN_OR_RETURN(const auto results, client_->Put(items));
      for (const PutResult& result : results) VARVE_RETURN_IF_ERROR(CheckStored(result));
      VARVE_RETURN_IF_ERROR(client_->SendDigests(context_, query_.epoch, 0, first, count,
                                                 rows.substr(0, count * rows.size() / kBatch),
                                                 absl::Now()));
    }
    return absl::OkStatus();
  }

  std::string DigestsOf(std::span<const std::byte> objects, uint32_t pages) const {
    const size_t bytes = page::DigestBytes(options_.digest, geometry_);
    std::string rows(pages * geometry_.num_kv_heads * bytes, '\0');
    for (uint32_t i = 0; i < pages * geometry_.num_kv_heads; ++i) {
      page::BuildDigest(options_.digest, objects.data() + i * geometry_.page_bytes(),
                        geometry_.page_tokens, geometry_.head_dim, geometry_.dtype,
                        rows.data() + i * bytes);
    }
    return rows;
  }

  // Every page of the selection is missing, so each request moves all of it.
  absl::Status PrepareQuery() {
    VARVE_ASSIGN_OR_RETURN(slots_, client_->Allocate(size_t{pages_per_head_} * options_.kv_heads *
                                                     geometry_.page_bytes()));
    queries_.resize(size_t{geometry_.num_query_heads} * geometry_.head_dim);
    query_.context_id = context_;
    query_.rerank = options_.rerank;
    query_.multiplier = options_.multiplier;
    query_.layers.resize(1);
    query_.layers[0].layer = 0;
    query_.layers[0].queries = queries_;
    for (uint32_t h = 0; h < options_.kv_heads; ++h) {
      RecallHead head;
      head.budget_pages = pages_per_head_;
      for (uint32_t i = 0; i < pages_per_head_; ++i) {
        head.slots.push_back({slots_.get(),
                              (size_t{h} * pages_per_head_ + i) * geometry_.page_bytes(),
                              geometry_.page_bytes()});
      }
      query_.layers[0].heads.push_back(std::move(head));
    }
    return absl::OkStatus();
  }

  absl::Status NewQueries() {
    std::normal_distribution<float> normal;
    for (float& q : queries_) q = normal(random_);
    return absl::OkStatus();
  }

  absl::Status OneRecall() {
    const double begin = NowSeconds();
    VARVE_ASSIGN_OR_RETURN(const RecallResult result, client_->Recall(query_));
    const double total_us = (NowSeconds() - begin) * 1e6;
    for (const RecallHeadResult& head : result.layers[0]) {
      for (const RecalledPage& page : head.recalled) {
        if (!page.done)
          return absl::InternalError(absl::StrCat("page ", page.page, ": ", page.message));
      }
    }
    stages_["queue_us"].push_back(result.timings.queue_us);
    stages_["score_us"].push_back(result.timings.score_us);
    stages_["select_us"].push_back(result.timings.select_us);
    stages_["rerank_us"].push_back(result.timings.rerank_us);
    stages_["locate_us"].push_back(result.timings.locate_us);
    stages_["transfer_us"].push_back(result.timings.transfer_us);
    stages_["server_us"].push_back(result.timings.total_us);
    stages_["rpc_us"].push_back(total_us - result.timings.total_us);
    whole_us_.push_back(total_us);
    return absl::OkStatus();
  }

  std::vector<Contestant> Contestants() {
    // Request and reply together carry about the queries; the echo carries half of that each way.
    const size_t echo_bytes = queries_.size() * sizeof(float) / 2;
    return {
        {"varve",
         [this](double seconds, Series& s) {
           if (rounds_++ == 1) Forget();  // the warm-up
           return TimedLoop(
               seconds, 1, s, [this] { return OneRecall(); }, [this] { return NewQueries(); });
         }},
        {"grpc_echo", [this, echo_bytes](double seconds,
                                         Series& s) { return EchoRound(seconds, echo_bytes, s); }},
        {"limits", [this](double, Series&) { return MeasureLimits(); }}};
  }

  void Forget() {
    stages_.clear();
    whole_us_.clear();
    limits_.clear();
  }

  // What the parts of a recall take at least: to read what is scored, as fast as the store's
  // threads together can, and to copy the pages. The digests of one layer are read by each recall;
  // keys and sketches of candidates lie anywhere, and are cold.
  absl::Status MeasureLimits() {
    const size_t pushed = size_t{pages_per_head_} * options_.kv_heads * geometry_.page_bytes();
    const auto copied = page::MeasureMemcpy(pushed, kLimitRepeats);
    if (!copied.has_value()) return absl::ResourceExhaustedError("no memory to measure with");
    limits_["limit_transfer_us"].push_back(static_cast<double>(pushed) / *copied / 1e3);
    if (pages_per_head_ >= options_.pages) return absl::OkStatus();  // nothing is scored
    const double heads = options_.kv_heads;
    const size_t digests = page::DigestBytes(options_.digest, geometry_);
    const size_t scored = size_t{options_.kv_heads} * options_.pages * digests;
    limits_["limit_score_us"].push_back(ReadMicros(static_cast<double>(scored), scored));
    const double candidates =
        heads * page::CandidatePages(pages_per_head_, options_.multiplier, options_.pages);
    if (options_.rerank != page::Rerank::kNone) {
      const size_t sketch =
          digests - page::SketchOffset(options_.digest, geometry_.head_dim, geometry_.dtype);
      const size_t each = options_.rerank == page::Rerank::kExact ? geometry_.part_bytes() : sketch;
      limits_["limit_rerank_us"].push_back(
          ReadMicros(candidates * static_cast<double>(each), kColdBytes));
    }
    return absl::OkStatus();
  }

  // Of so many bytes, at the speed at which the threads read all of `memory` bytes.
  double ReadMicros(double bytes, size_t memory) {
    const size_t own = memory / kStoreThreads;
    read_.resize(std::max(read_.size(), kStoreThreads * own), 1);
    std::vector<double> speeds(kStoreThreads);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kStoreThreads; ++t) {
      threads.emplace_back([&, t] {
        const auto piece = std::span(read_).subspan(t * own, own);
        speeds[t] = page::ReadBandwidth(std::as_bytes(piece), kLimitRepeats);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return bytes / std::accumulate(speeds.begin(), speeds.end(), 0.0) / 1e3;
  }

  // A recall keeps its client waiting while the store computes, and a processor that has slept
  // wakes up late. The echo is measured from the same state: before each one the client sleeps as
  // long as the store works on a recall.
  absl::Status EchoRound(double seconds, size_t bytes, Series& series) {
    const absl::Duration pause = absl::Microseconds(Median(stages_["server_us"]));
    for (const double end = NowSeconds() + seconds; NowSeconds() < end && !console::Stopped();) {
      absl::SleepFor(pause);
      const double begin = NowSeconds();
      VARVE_RETURN_IF_ERROR(client_->Echo(bytes));
      series.batch_seconds.push_back(NowSeconds() - begin);
    }
    series.rate_per_round.push_back(1 / Median(series.batch_seconds));
    return absl::OkStatus();
  }

  BenchRow Row(const std::map<std::string, Series>& series) const {
    const Series& recall = series.at("varve");
    const uint32_t pages = pages_per_head_ * options_.kv_heads;
    BenchRow row = MakeRow("recall", options_, geometry_.page_bytes(), pages, 1, recall);
    row.ops_per_s = recall.rate();
    row.gb_per_s = recall.rate() * pages * static_cast<double>(geometry_.page_bytes()) / 1e9;
    for (const auto& [stage, values] : stages_) row.extra[stage] = Median(values);
    row.extra["grpc_echo_us"] = Median(series.at("grpc_echo").batch_seconds) * 1e6;
    double limit = row.extra["grpc_echo_us"];
    for (const auto& [part, values] : limits_) {
      row.extra[part] = Median(values);
      limit += row.extra[part];
    }
    row.extra["limit_us"] = limit;
    row.extra["ratio_limit"] = limit / Median(whole_us_);
    row.extra["ratio_rpc_overhead_to_echo"] = row.extra["rpc_us"] / row.extra["grpc_echo_us"];
    return row;
  }

  const BenchOptions& options_;
  const uint32_t pages_per_head_;
  const page::Geometry geometry_;
  BenchStore store_;
  std::unique_ptr<Client> client_;
  std::string context_;
  bool opened_ = false;
  std::vector<page::ObjectKey> keys_;
  std::unique_ptr<Memory> source_, slots_;
  std::vector<float> queries_;
  RecallQuery query_;
  std::mt19937_64 random_{13};
  int rounds_ = 0;
  std::map<std::string, std::vector<double>> stages_;
  std::vector<double> whole_us_;
  std::map<std::string, std::vector<double>> limits_;
  std::vector<char> read_;
};

}  // namespace

absl::StatusOr<std::vector<BenchRow>> BenchRecall(const BenchOptions& options) {
  VARVE_ASSIGN_OR_RETURN(BenchRow row, RecallBench(options).Run());
  return std::vector<BenchRow>{std::move(row)};
}

}  // namespace varve::client
