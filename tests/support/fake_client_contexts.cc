// The fake store's contexts.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "tests/support/fake_client.h"

namespace varve::testing {

absl::StatusOr<FakeContext*> FakeClient::Find(const std::string& id) {
  VARVE_RETURN_IF_ERROR(Reachable());
  const auto it = contexts_.find(id);
  if (it == contexts_.end()) return absl::NotFoundError(absl::StrCat("no context ", id));
  return &it->second;
}

client::ContextInfo FakeClient::InfoOf(const std::string& id, const FakeContext& context) const {
  client::ContextInfo info;
  info.context_id = id;
  info.attached = !context.parked;
  info.geometry = context.geometry;
  info.digest_kind = context.kind;
  info.num_blocks = static_cast<uint32_t>(context.hashes.size());
  info.epoch = context.epoch;
  info.digest_blocks = context.digest_blocks;
  info.attached_sessions = context.others_attached + (context.parked ? 0 : 1);
  return info;
}

absl::StatusOr<client::ContextInfo> FakeClient::OpenContext(const std::string& id,
                                                            const page::Geometry& geometry,
                                                            page::DigestKind kind) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(Reachable());
  FakeContext context;
  context.geometry = geometry;
  context.kind = kind;
  context.rows.resize(geometry.num_layers);
  context.digest_blocks.resize(geometry.num_layers);
  context.epoch = next_epoch_++;
  const auto [it, fresh] = contexts_.emplace(id, std::move(context));
  if (!fresh) return absl::AlreadyExistsError(id);
  return InfoOf(id, it->second);
}

absl::StatusOr<client::ContextInfo> FakeClient::AppendContext(
    const std::string& id, uint32_t first_block, std::span<const std::string> block_hashes) {
  base::MutexLock lock(mutex_);
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(id));
  if (first_block != context->hashes.size()) return absl::FailedPreconditionError("a hole");
  context->hashes.insert(context->hashes.end(), block_hashes.begin(), block_hashes.end());
  if (lose_appends_ > 0) {
    --lose_appends_;
    return absl::UnavailableError("the connection broke before the answer");
  }
  return InfoOf(id, *context);
}

absl::StatusOr<client::ContextInfo> FakeClient::TruncateContext(const std::string& id,
                                                                uint32_t num_blocks) {
  base::MutexLock lock(mutex_);
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(id));
  context->epoch = next_epoch_++;
  context->hashes.resize(num_blocks);
  for (client::HotPages& entry : context->hot) {
    std::erase_if(entry.attended, [=](uint32_t page) { return page >= num_blocks; });
    std::erase_if(entry.others, [=](uint32_t page) { return page >= num_blocks; });
  }
  const size_t row = page::DigestRowBytes(context->kind, context->geometry);
  for (size_t l = 0; l < context->rows.size(); ++l) {
    context->digest_blocks[l] = std::min(context->digest_blocks[l], num_blocks);
    context->rows[l].resize(context->digest_blocks[l] * row);
  }
  return InfoOf(id, *context);
}

absl::StatusOr<client::ContextInfo> FakeClient::ForkContext(const std::string& id,
                                                            const std::string& new_id,
                                                            uint32_t num_blocks) {
  base::MutexLock lock(mutex_);
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(id));
  if (num_blocks != 0 && num_blocks != context->hashes.size())
    return absl::UnimplementedError("not part of the fake");
  FakeContext copy = *context;
  copy.parked = false;
  copy.epoch = next_epoch_++;
  if (!contexts_.emplace(new_id, copy).second) return absl::AlreadyExistsError(new_id);
  return InfoOf(new_id, copy);
}

absl::StatusOr<client::ContextInfo> FakeClient::AttachContext(const std::string& id) {
  base::MutexLock lock(mutex_);
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(id));
  context->parked = false;
  client::ContextInfo info = InfoOf(id, *context);
  info.block_hashes = context->hashes;
  info.hot = context->hot;
  return info;
}

absl::StatusOr<client::ContextInfo> FakeClient::ParkContext(const std::string& id,
                                                            std::span<const client::HotPages> hot) {
  base::MutexLock lock(mutex_);
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(id));
  for (const client::HotPages& entry : hot) {
    for (const auto* pages : {&entry.attended, &entry.others}) {
      if (!pages->empty() && pages->back() >= context->hashes.size()) {
        return absl::InvalidArgumentError("a page that the context has not");
      }
    }
  }
  context->parked = true;
  if (!hot.empty()) context->hot.assign(hot.begin(), hot.end());
  return InfoOf(id, *context);
}

absl::Status FakeClient::DropContext(const std::string& id) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(Reachable());
  return contexts_.erase(id) > 0 ? absl::OkStatus() : absl::NotFoundError(id);
}

absl::Status FakeClient::SendDigests(const std::string& id, uint32_t epoch, uint32_t layer,
                                     uint32_t first_block, uint32_t num_blocks, std::string rows,
                                     absl::Time) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(Reachable());
  if (fail_digests_ > 0) {
    --fail_digests_;
    return digest_error_;
  }
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(id));
  if (epoch != context->epoch) return absl::FailedPreconditionError("stale epoch");
  if (first_block != context->digest_blocks[layer] ||
      first_block + num_blocks > context->hashes.size() ||
      rows.size() != num_blocks * page::DigestRowBytes(context->kind, context->geometry)) {
    return absl::FailedPreconditionError("digests with a hole, too early or of a wrong size");
  }
  digest_rows_ += num_blocks;
  context->rows[layer] += rows;
  context->digest_blocks[layer] += num_blocks;
  return absl::OkStatus();
}

absl::Status FakeClient::ReadDigests(
    const std::string& id, uint32_t epoch, uint32_t layer_begin, uint32_t layer_count,
    const std::function<absl::Status(uint32_t, uint32_t, uint32_t, std::string_view)>& sink) {
  FakeContext copy = context(id);
  if (copy.epoch != epoch) return absl::FailedPreconditionError("another epoch");
  for (uint32_t l = layer_begin; l < layer_begin + layer_count; ++l) {
    VARVE_RETURN_IF_ERROR(sink(l, 0, copy.digest_blocks[l], copy.rows[l]));
  }
  return absl::OkStatus();
}

}  // namespace varve::testing
