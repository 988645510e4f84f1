#include "kvstore/server/get_batch.h"

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/server/convert.h"
#include "kvstore/server/memory_refs.h"
#include "kvstore/server/transfer.h"

namespace varve::server {
namespace {

using Way = transport::RemoteRegion::Way;

class GetBatch : public std::enable_shared_from_this<GetBatch> {
 public:
  GetBatch(Core& core, SessionRef session, const varve::v1::GetRequest& request,
           varve::v1::GetReply* reply, absl::Time deadline, Answer answer)
      : core_(core),
        session_(std::move(session)),
        request_(request),
        reply_(reply),
        deadline_(deadline),
        answer_(std::move(answer)),
        items_(request.items_size()) {}

  void Run() {
    for (int i = 0; i < request_.items_size(); ++i) reply_->add_results();
    Chunk chunk;
    // From the last: a batch is mostly a prefix, and what is used last leaves last.
    for (int i = request_.items_size(); i-- > 0;) {
      if (!Find(i)) continue;
      if (!items_[i].handle->loaded()) {
        Load(i);
        continue;
      }
      const Way way = CommonWay(items_[i].pieces);
      if (chunk.way != way) Start(std::exchange(chunk, {}));
      chunk.way = way;
      chunk.items.push_back(i);
      chunk.bytes += items_[i].bytes;
      if (chunk.bytes >= ChunkBytes(way)) Start(std::exchange(chunk, {}));
    }
    Start(std::move(chunk));
    CloseChunk();
  }

 private:
  // Checks its bytes while they are copied.
  struct Item final : transport::Copier {
    void Copy(void* to, const void* from, size_t bytes) override {
      handle->CopyTo(to, from, bytes);
    }

    page::ObjectRange range;
    uint64_t bytes = 0;
    Pieces pieces;
    std::unique_ptr<store::GetHandle> handle;  // null: has its result already
  };
  struct Chunk {
    std::vector<int> items;
    uint64_t bytes = 0;
    Way way = Way::kDirect;
  };

  // False: the item has its result already.
  bool Find(int i) {
    store::Miss miss;
    const absl::Status status = Acquire(i, &miss);
    if (!status.ok()) {
      items_[i].handle.reset();
      reply_->mutable_results(i)->set_message(std::string(status.message()));
    } else if (items_[i].handle == nullptr) {
      SetMiss(core_, miss.reason, reply_->mutable_results(i));
    }
    return items_[i].handle != nullptr;
  }

  // Starts on a chunk while the items before it are being looked at.
  void Start(Chunk chunk) {
    if (chunk.items.empty()) return;
    open_chunks_.fetch_add(1);
    const bool verify_first = verify_ && chunk.way == Way::kDirect;
    const bool verify_now = verify_ && chunk.way != Way::kDirect;
    if (!verify_first && chunk.way != Way::kMapped) {
      return Post(std::move(chunk.items), verify_now);
    }
    // Checksums and copies touch all bytes: not on a gRPC thread, and while earlier chunks travel.
    RunOnDataThread([self = shared_from_this(), items = std::move(chunk.items), verify_first,
                     verify_now]() mutable {
      if (verify_first) self->DropCorrupt(items);
      self->Post(std::move(items), verify_now);
    });
  }

  void RunOnDataThread(base::Task task) {
    if (request_.prefetch()) return core_.data_pool.RunBehind(std::move(task));
    core_.data_pool.Run(std::move(task));
  }

  // What is on disk goes its own way, piece by piece as it comes.
  void Load(int i) {
    open_chunks_.fetch_add(1);
    items_[i].handle->Load(
        items_[i].range, deadline_, [self = shared_from_this(), i](const absl::Status& status) {
          // Not on a thread of the disk.
          self->RunOnDataThread([self, i, status] { self->OnLoaded(i, status); });
        });
  }

  void OnLoaded(int i, const absl::Status& status) {
    if (status.ok()) {
      Start(Chunk{.items = {i}, .bytes = items_[i].bytes, .way = CommonWay(items_[i].pieces)});
    } else {
      SetMiss(core_, store::MissReason::kFailed, reply_->mutable_results(i));
      reply_->mutable_results(i)->set_message(absl::StrCat("disk: ", status.message()));
      items_[i].handle.reset();
    }
    CloseChunk();
  }

  // OK with no handle: a miss.
  absl::Status Acquire(int i, store::Miss* miss) {
    const varve::v1::GetItem& wire = request_.items(i);
    Item& item = items_[i];
    VARVE_ASSIGN_OR_RETURN(const page::ObjectKey key, ParseKey(wire.key()));
    VARVE_ASSIGN_OR_RETURN(item.range, ParseRange(wire.range()));
    uint64_t room = 0;
    VARVE_ASSIGN_OR_RETURN(item.pieces,
                           ResolveRefs(*session_, wire.destinations(), "destinations", &room));
    item.handle = core_.pages.Acquire(session_->ns(), key, miss);
    if (item.handle == nullptr) return absl::OkStatus();
    VARVE_ASSIGN_OR_RETURN(item.bytes, CheckRange(item.handle->meta(), item.range));
    if (room < item.bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("destinations hold ", room, " bytes, but the value has ", item.bytes));
    }
    return absl::OkStatus();
  }

  void DropCorrupt(std::vector<int>& chunk) {
    std::erase_if(chunk, [this](int i) {
      if (items_[i].handle->Verify(items_[i].range).ok()) return false;
      items_[i].handle.reset();
      SetMiss(core_, store::MissReason::kCorrupt, reply_->mutable_results(i));
      return true;
    });
  }

  // verify_now: by the checksums of the copies, when they are made.
  void Post(std::vector<int> chunk, bool verify_now) {
    if (chunk.empty()) return CloseChunk();
    std::vector<transport::Segment> segments;
    for (int i : chunk) {
      PieceCursor cursor(items_[i].pieces);
      const store::GetHandle& handle = *items_[i].handle;
      ForEachPiece(handle.meta(), items_[i].range, [&](page::Extent extent) {
        cursor.Map(Mutable(handle.Bytes(extent)), verify_now ? &items_[i] : nullptr, segments);
      });
    }
    auto done = [self = shared_from_this(), chunk = std::move(chunk),
                 verify_now](const absl::Status& status) mutable {
      if (verify_now && status.ok()) self->DropCorrupt(chunk);
      self->Deliver(chunk, status);
    };
    if (request_.prefetch()) {
      StartPatientTransfer(core_, session_, std::move(segments), deadline_, std::move(done));
    } else {
      StartTransfer(core_, Direction::kToClient, session_, std::move(segments), deadline_,
                    std::move(done));
    }
  }

  // On a transport thread: quick, and nothing here waits.
  void Deliver(const std::vector<int>& chunk, const absl::Status& status) {
    std::vector<std::unique_ptr<store::GetHandle>> handles;
    handles.reserve(chunk.size());
    for (int i : chunk) {
      varve::v1::GetItemResult* result = reply_->mutable_results(i);
      if (status.ok()) {
        const store::TierId tier = items_[i].handle->tier();
        SetHit(*items_[i].handle, items_[i].bytes, result);
        CountHit(core_, tier, items_[i].bytes);
        if (tier == store::TierId::kNvme) disk_hits_.store(true, std::memory_order_relaxed);
        hits_.store(true, std::memory_order_relaxed);
      } else {
        SetMiss(core_, store::MissReason::kFailed, result);
        result->set_message(absl::StrCat("transfer: ", status.message()));
      }
      handles.push_back(std::move(items_[i].handle));
    }
    core_.pages.CloseAll(std::move(handles));
    CloseChunk();
  }

  void CloseChunk() {
    if (open_chunks_.fetch_sub(1) != 1) return;
    if (hits_.load()) {
      // The slowest tier decides how long a batch takes.
      const auto tier = disk_hits_.load() ? store::TierId::kNvme : store::TierId::kHost;
      core_.metrics.tier(tier).get_seconds->Observe(absl::ToDoubleSeconds(absl::Now() - start_));
    }
    std::move(answer_)(absl::OkStatus());
  }

  Core& core_;
  const SessionRef session_;
  const varve::v1::GetRequest& request_;
  varve::v1::GetReply* const reply_;
  const absl::Time deadline_;
  const absl::Time start_ = absl::Now();
  const bool verify_ = core_.config.host_tier().verify_reads();
  Answer answer_;
  std::vector<Item> items_;
  std::atomic<bool> hits_{false};
  std::atomic<bool> disk_hits_{false};
  std::atomic<size_t> open_chunks_{1};  // and one for Run itself
};

}  // namespace

void StartGet(Core& core, SessionRef session, const varve::v1::GetRequest& request,
              varve::v1::GetReply* reply, absl::Time deadline, Answer answer) {
  (request.prefetch() ? core.metrics.fetches_prefetch : core.metrics.fetches_demand)->Increment();
  std::make_shared<GetBatch>(core, std::move(session), request, reply, deadline, std::move(answer))
      ->Run();
}

absl::StatusOr<uint64_t> CheckRange(const store::ObjectMeta& meta, const page::ObjectRange& range) {
  if (range.whole()) return meta.bytes;
  if (meta.layout.num_kv_heads == 0) {
    return absl::InvalidArgumentError(
        "range: the object is opaque; allowed: the whole object only");
  }
  if (const auto bytes = page::RangeBytes(meta.layout, range)) return *bytes;
  return absl::InvalidArgumentError(absl::StrCat(
      "range: KV heads [", range.head_begin, ", ", uint64_t{range.head_begin} + range.head_count,
      "); allowed: within [0, ", meta.layout.num_kv_heads, ")"));
}

void SetMiss(Core& core, store::MissReason reason, varve::v1::GetItemResult* result) {
  result->set_miss_reason(ToProto(reason));
  core.metrics.CountMiss(reason);
}

void SetHit(const store::GetHandle& handle, uint64_t bytes, varve::v1::GetItemResult* result) {
  result->set_hit(true);
  result->set_tier(ToProto(handle.tier()));
  result->set_value_bytes(bytes);
  result->set_codec(handle.meta().codec);
}

void CountHit(Core& core, store::TierId tier, uint64_t bytes) {
  TierMetrics& metrics = core.metrics.tier(tier);
  metrics.hits->Increment();
  metrics.served_bytes->Increment(static_cast<double>(bytes));
}

}  // namespace varve::server
