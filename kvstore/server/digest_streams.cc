#include "kvstore/server/digest_streams.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/server/config.h"

namespace varve::server {
namespace {

using varve::v1::DigestAck;
using varve::v1::DigestBatch;
using varve::v1::ReadDigestsRequest;

constexpr uint64_t kMaxLagMicros = 24ull * 3600 * 1000 * 1000;

class DigestStream final : public StreamCall<DigestBatch, DigestAck> {
 public:
  // One batch at a time: digests of a layer must arrive in order.
  explicit DigestStream(Core& core) : StreamCall(core, "StreamDigests", 1) {}

 private:
  // Checking rows for NaN reads them all: not on a gRPC thread.
  void OnRequest(std::unique_ptr<DigestBatch> batch) override {
    core().recall_pool.Run([this, self = shared_from_this(), batch = std::move(batch)] {
      Respond(*batch, Take(*batch));
    });
  }

  std::unique_ptr<DigestAck> Take(const DigestBatch& batch) {
    if (!batch.session_id().empty()) session_id_ = batch.session_id();
    // Looked up each time: a stream must not keep the endpoint of an ended session alive.
    const absl::StatusOr<SessionRef> session = RequireSession(core(), session_id_);
    if (!session.ok()) {
      End(session.status());
      return nullptr;
    }
    auto ack = std::make_unique<DigestAck>();
    ack->set_context_id(batch.context_id());
    ack->set_layer(batch.layer());
    const absl::StatusOr<uint32_t> blocks = core().contexts.AppendDigests(
        (*session)->ns(), batch.context_id(), batch.epoch(), batch.layer(), batch.first_block(),
        batch.num_blocks(), batch.rows());
    if (blocks.ok()) {
      ack->set_digest_blocks(*blocks);
      ObserveLag(batch.sealed_unix_us());
    } else {
      ack->set_error(std::string(CountReject(core(), "contexts", blocks.status()).message()));
      ack->set_error_code(static_cast<uint32_t>(blocks.status().code()));
    }
    return ack;
  }

  void ObserveLag(uint64_t sealed_unix_us) {
    const auto now = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
    // Clocks of two machines differ: a seal in the future is no lag.
    const uint64_t lag = sealed_unix_us < now ? now - sealed_unix_us : 0;
    // A time that nobody meant, 0 for one; one of them would outweigh all others in the sum.
    if (lag > kMaxLagMicros || sealed_unix_us > now + kMaxLagMicros) return;
    core().metrics.digest_lag_seconds->Observe(static_cast<double>(lag) * 1e-6);
  }

  std::string session_id_;
};

// Walks the layers of a context in batches.
class DigestSource {
 public:
  static absl::StatusOr<SendCall<DigestBatch>::Source> Make(Core& core, const Session& session,
                                                            const ReadDigestsRequest& request) {
    VARVE_ASSIGN_OR_RETURN(recall::ContextSnapshot context,
                           core.contexts.Get(session.ns(), request.context_id()));
    const uint32_t layers = context.options.geometry.num_layers;
    const uint64_t end = request.layer_count() == 0
                             ? layers
                             : uint64_t{request.layer_begin()} + request.layer_count();
    if (request.layer_begin() >= layers || end > layers) {
      return absl::InvalidArgumentError(absl::StrCat("layers [", request.layer_begin(), ", ", end,
                                                     "); allowed: within [0, ", layers, ")"));
    }
    // The snapshot's may be another one by now; the rows are of the client's, or none come.
    context.epoch = request.epoch();
    VARVE_RETURN_IF_ERROR(core.contexts
                              .ReadDigests(session.ns(), request.context_id(), request.epoch(),
                                           request.layer_begin(), 0, 0)
                              .status());
    DigestSource source(core, session.ns(), std::move(context), request.layer_begin(),
                        static_cast<uint32_t>(end));
    return SendCall<DigestBatch>::Source(
        [source = std::move(source)](DigestBatch* batch, SendCall<DigestBatch>&) mutable {
          return source.Next(batch);
        });
  }

 private:
  DigestSource(Core& core, store::NamespaceId ns, recall::ContextSnapshot context,
               uint32_t layer_begin, uint32_t layer_end)
      : core_(&core), ns_(ns), context_(std::move(context)), layer_(layer_begin), end_(layer_end) {
    const size_t row_bytes =
        page::DigestRowBytes(context_.options.digest_kind, context_.options.geometry);
    batch_blocks_ = std::max<uint32_t>(1, static_cast<uint32_t>(kMaxInlineChunkBytes / row_bytes));
  }

  using Pulled = SendCall<DigestBatch>::Pulled;

  absl::StatusOr<Pulled> Next(DigestBatch* batch) {
    while (layer_ < end_ && block_ >= context_.digest_blocks[layer_]) {
      ++layer_;
      block_ = 0;
    }
    if (layer_ >= end_) return Pulled::kEnd;
    const uint32_t blocks = std::min(batch_blocks_, context_.digest_blocks[layer_] - block_);
    VARVE_ASSIGN_OR_RETURN(std::string rows,
                           core_->contexts.ReadDigests(ns_, context_.context_id, context_.epoch,
                                                       layer_, block_, blocks));
    batch->set_context_id(context_.context_id);
    batch->set_epoch(context_.epoch);
    batch->set_layer(layer_);
    batch->set_first_block(block_);
    batch->set_num_blocks(blocks);
    batch->set_rows(std::move(rows));
    block_ += blocks;
    return Pulled::kMessage;
  }

  Core* core_;
  store::NamespaceId ns_;
  recall::ContextSnapshot context_;
  uint32_t layer_;
  uint32_t end_;
  uint32_t block_ = 0;
  uint32_t batch_blocks_ = 1;
};

}  // namespace

DigestReactor* StartDigestStream(Core& core) {
  return std::make_shared<DigestStream>(core)->Begin();
}

grpc::ServerWriteReactor<DigestBatch>* StartReadDigests(Core& core,
                                                        const ReadDigestsRequest& request) {
  return std::make_shared<SendCall<DigestBatch>>(core, "ReadDigests")
      ->Begin(RequireSession(core, request.session_id()),
              [&](const Session& session) { return DigestSource::Make(core, session, request); });
}

}  // namespace varve::server
