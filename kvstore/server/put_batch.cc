#include "kvstore/server/put_batch.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/server/convert.h"
#include "kvstore/server/memory_refs.h"
#include "kvstore/server/transfer.h"

namespace varve::server {
namespace {

using varve::v1::PutResult;
using Way = transport::RemoteRegion::Way;

class PutBatch : public std::enable_shared_from_this<PutBatch> {
 public:
  PutBatch(Core& core, SessionRef session, const varve::v1::PutRequest& request,
           varve::v1::PutReply* reply, absl::Time deadline, Answer answer)
      : core_(core),
        session_(std::move(session)),
        request_(request),
        reply_(reply),
        deadline_(deadline),
        answer_(std::move(answer)),
        items_(request.items_size()) {}

  void Run() {
    for (int i = 0; i < request_.items_size(); ++i) reply_->add_results();
    RunFrom(0);
  }

 private:
  // The chunks start from the last, and so do the items of each: a batch is mostly a prefix, and
  // what is stored last leaves last. Room they get from the first.
  void RunFrom(int first) {
    std::vector<Chunk> chunks;
    for (int i = first; i < request_.items_size(); ++i) {
      const absl::Status status = Reserve(i);
      if (absl::IsUnavailable(status) && absl::Now() < deadline_) {
        StartFromTheLast(std::move(chunks));
        return WaitForRoom(i);
      }
      if (!status.ok()) {
        if (absl::IsResourceExhausted(status)) refused_.insert(request_.items(i).key());
        Settle(i, status);
        continue;
      }
      Item& item = items_[i];
      const Way way = CommonWay(item.pieces);
      if (chunks.empty() || chunks.back().way != way || chunks.back().bytes >= ChunkBytes(way)) {
        chunks.push_back(Chunk{.way = way});
      }
      Chunk& chunk = chunks.back();
      chunk.items.push_back(i);
      PieceCursor(item.pieces).Map(item.handle->memory(), &item, chunk.segments);
      chunk.bytes += item.handle->memory().size();
    }
    StartFromTheLast(std::move(chunks));
    CloseChunk();
  }

  // Objects are on their way to disk, and there will be room for this item and those behind it.
  void WaitForRoom(int i) {
    core_.pages.AwaitRoom(items_[i].bytes, deadline_, [self = shared_from_this(), i] {
      self->core_.put_pool.Run([self, i] { self->RunFrom(i); });
    });
  }

  void Settle(int i, const absl::Status& status) {
    open_chunks_.fetch_add(1);
    AwaitSettled(core_, session_->ns(), request_.items(i).key(), status,
                 [self = shared_from_this(), i](const absl::Status& settled) {
                   self->SetResult(i, settled);
                   self->CloseChunk();
                 });
  }

  // Computes checksums while its bytes are copied.
  struct Item final : transport::Copier {
    void Copy(void* to, const void* from, size_t bytes) override {
      const auto offset = static_cast<std::byte*>(to) - handle->memory().data();
      handle->CopyFrom(static_cast<uint64_t>(offset), from, bytes);
    }

    Pieces pieces;
    uint64_t bytes = 0;
    std::unique_ptr<store::PutHandle> handle;  // null: has its result already
  };
  struct Chunk {
    std::vector<int> items;
    std::vector<transport::Segment> segments;
    uint64_t bytes = 0;
    Way way = Way::kDirect;
  };

  void StartFromTheLast(std::vector<Chunk> chunks) {
    for (; !chunks.empty(); chunks.pop_back()) Start(std::move(chunks.back()));
  }

  void Start(Chunk chunk) {
    open_chunks_.fetch_add(1);
    if (chunk.way != Way::kMapped) return Post(std::move(chunk));
    // The copy is made by this thread: not on a gRPC thread.
    core_.put_pool.Run([self = shared_from_this(), chunk = std::move(chunk)]() mutable {
      self->Post(std::move(chunk));
    });
  }

  absl::Status Reserve(int i) {
    const varve::v1::PutItem& wire = request_.items(i);
    VARVE_ASSIGN_OR_RETURN(const page::ObjectKey key, ParseKey(wire.key()));
    // It would push out what is stored of its prompt, and be of no use.
    if (refused_.contains(wire.parent()) && !core_.pages.Exists(session_->ns(), key)) {
      return absl::ResourceExhaustedError("no room for the block before it");
    }
    Item& item = items_[i];
    VARVE_ASSIGN_OR_RETURN(item.pieces,
                           ResolveRefs(*session_, wire.sources(), "sources", &item.bytes));
    VARVE_ASSIGN_OR_RETURN(const store::ObjectMeta meta,
                           ParseMeta(core_, {.bytes = item.bytes,
                                             .layout = wire.layout(),
                                             .codec = wire.codec(),
                                             .prompt_tokens = wire.prompt_tokens(),
                                             .tokens = wire.tokens(),
                                             .ttl_ms = wire.ttl_ms()}));
    VARVE_ASSIGN_OR_RETURN(const std::string parent, ParseParent(key, wire.parent()));
    VARVE_ASSIGN_OR_RETURN(item.handle, core_.pages.Reserve(session_->ns(), key, meta, parent));
    return absl::OkStatus();
  }

  void Post(Chunk chunk) {
    auto done = [self = shared_from_this(),
                 items = std::move(chunk.items)](absl::Status status) mutable {
      if (!status.ok() || self->AreChecksummed(items)) return self->Commit(items, status);
      // The checksum reads all bytes: not on a transport thread.
      Core& core = self->core_;
      core.put_pool.Run([self = std::move(self), items = std::move(items),
                         status = std::move(status)] { self->Commit(items, status); });
    };
    StartTransfer(core_, Direction::kFromClient, session_, std::move(chunk.segments), deadline_,
                  std::move(done));
  }

  bool AreChecksummed(const std::vector<int>& items) const {
    return std::all_of(items.begin(), items.end(),
                       [this](int i) { return items_[i].handle->checksummed(); });
  }

  void Commit(const std::vector<int>& items, const absl::Status& transferred) {
    for (size_t at = items.size(); at-- > 0;) {
      const int i = items[at];
      // Before the answer: what is not committed is given back now.
      std::unique_ptr<store::PutHandle> handle = std::move(items_[i].handle);
      if (!transferred.ok()) {
        handle.reset();
        Settle(i, absl::AbortedError(absl::StrCat("transfer: ", transferred.message())));
        continue;
      }
      open_chunks_.fetch_add(1);
      const varve::v1::PutItem& wire = request_.items(i);
      handle->Commit(wire.has_crc32c() ? std::optional(wire.crc32c()) : std::nullopt,
                     [self = shared_from_this(), i](const absl::Status& status) {
                       self->Settle(i, status);
                       self->CloseChunk();
                     });
    }
    CloseChunk();
  }

  void SetResult(int i, const absl::Status& status) {
    varve::v1::PutItemResult& result = *reply_->mutable_results(i);
    result.set_result(ToPutResult(status));
    if (!status.ok()) result.set_message(std::string(status.message()));
    core_.metrics.CountPut(result.result());
  }

  void CloseChunk() {
    if (open_chunks_.fetch_sub(1) != 1) return;
    core_.metrics.put_seconds->Observe(absl::ToDoubleSeconds(absl::Now() - start_));
    std::move(answer_)(absl::OkStatus());
  }

  Core& core_;
  const SessionRef session_;
  const varve::v1::PutRequest& request_;
  varve::v1::PutReply* const reply_;
  const absl::Time deadline_;
  const absl::Time start_ = absl::Now();
  Answer answer_;
  std::vector<Item> items_;
  absl::flat_hash_set<std::string> refused_;  // keys that found no room
  std::atomic<size_t> open_chunks_{1};        // items being committed too, and one for Run itself
};

}  // namespace

void StartPut(Core& core, SessionRef session, const varve::v1::PutRequest& request,
              varve::v1::PutReply* reply, absl::Time deadline, Answer answer) {
  std::make_shared<PutBatch>(core, std::move(session), request, reply, deadline, std::move(answer))
      ->Run();
}

void AwaitSettled(Core& core, store::NamespaceId ns, const std::string& key,
                  const absl::Status& status, store::PutHandle::CommitDone done) {
  const absl::StatusOr<page::ObjectKey> parsed = ParseKey(key);
  if (!absl::IsAlreadyExists(status) || !parsed.ok()) return std::move(done)(status);
  core.pages.AwaitDurable(ns, *parsed,
                          [status, done = std::move(done)](const absl::Status& durable) mutable {
                            std::move(done)(durable.ok() ? status : durable);
                          });
}

PutResult ToPutResult(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return varve::v1::PUT_RESULT_STORED;
    case absl::StatusCode::kAlreadyExists:
      return varve::v1::PUT_RESULT_EXISTS;
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
      return varve::v1::PUT_RESULT_NO_SPACE;
    case absl::StatusCode::kDataLoss:
      return varve::v1::PUT_RESULT_CORRUPT;
    case absl::StatusCode::kInvalidArgument:
      return varve::v1::PUT_RESULT_INVALID;
    default:
      return varve::v1::PUT_RESULT_FAILED;
  }
}

absl::StatusOr<std::string> ParseParent(const page::ObjectKey& key, const std::string& parent) {
  if (parent.empty()) return std::string();
  const std::optional<page::ObjectKey> parsed = page::ObjectKey::FromBytes(parent);
  const std::string_view block = parsed.has_value() ? store::BlockOf(*parsed) : std::string_view();
  if (store::CanFollow(key, block)) return std::string(block);
  return absl::InvalidArgumentError(
      absl::StrCat("parent of ", parent.size(), " bytes for a key of ", key.bytes().size(),
                   "; allowed: 8 to ", page::ObjectKey::kMaxBytes,
                   " bytes, for a key of at least 8, of another block: keys of one block differ in "
                   "their last 4 bytes alone"));
}

absl::StatusOr<store::ObjectMeta> ParseMeta(const Core& core, const ValueFields& fields) {
  const uint64_t max_bytes = core.config.sessions().max_object_bytes();
  if (fields.bytes == 0 || fields.bytes > max_bytes) {
    if (fields.bytes != 0) core.metrics.Reject("object_bytes");
    return absl::InvalidArgumentError(absl::StrCat("value of ", fields.bytes,
                                                   " bytes; allowed: 1 to ", max_bytes,
                                                   " (sessions.max_object_bytes)"));
  }
  store::ObjectMeta meta;
  meta.bytes = fields.bytes;
  VARVE_ASSIGN_OR_RETURN(meta.layout, ParseLayout(fields.layout));
  if (!fields.codec.empty()) meta.codec = fields.codec;
  meta.prompt_tokens = fields.prompt_tokens;
  meta.tokens = fields.tokens;
  if (fields.ttl_ms > 0) meta.expires = absl::Now() + absl::Milliseconds(fields.ttl_ms);
  return meta;
}

}  // namespace varve::server
