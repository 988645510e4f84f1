#include "tests/support/fake_client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/page/checksum.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/select.h"

namespace varve::testing {
namespace {

class FakeMemory final : public client::Memory {
 public:
  explicit FakeMemory(std::span<std::byte> memory) : bytes_(memory) {}
  explicit FakeMemory(size_t bytes) : owned_(bytes), bytes_(owned_) {}
  std::span<std::byte> bytes() const override { return bytes_; }

 private:
  std::vector<std::byte> owned_;
  std::span<std::byte> bytes_;
};

char* At(const client::Piece& piece) {
  return reinterpret_cast<char*>(piece.memory->bytes().data()) + piece.offset;
}

std::string Gather(const client::PutItem& item) {
  std::string value;
  for (const client::Piece& piece : item.sources) value.append(At(piece), piece.bytes);
  return value;
}

absl::Status NotFaked() { return absl::UnimplementedError("not part of the fake"); }

}  // namespace

FakeClient::FakeClient() : thread_([this] { Loop(); }) {}

FakeClient::~FakeClient() {
  ReleasePuts();
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void FakeClient::Loop() {
  while (true) {
    Pending next;
    {
      base::MutexLock lock(mutex_);
      while (!stopping_ && (held_ || pending_.empty())) changed_.Wait(mutex_);
      if (pending_.empty()) return;
      next = std::move(pending_.front());
      pending_.pop_front();
    }
    next.done(Put(next.items));
  }
}

void FakeClient::HoldPuts() {
  base::MutexLock lock(mutex_);
  held_ = true;
}

void FakeClient::ReleasePuts() {
  base::MutexLock lock(mutex_);
  held_ = false;
  changed_.NotifyAll();
}

size_t FakeClient::held_puts() const {
  base::MutexLock lock(mutex_);
  return pending_.size();
}

void FakeClient::FailPuts(int calls, absl::Status status) {
  base::MutexLock lock(mutex_);
  fail_puts_ = calls;
  put_error_ = std::move(status);
}

void FakeClient::FailGets(int calls, absl::Status status) {
  base::MutexLock lock(mutex_);
  fail_gets_ = calls;
  get_error_ = std::move(status);
}

void FakeClient::LoseAppendReplies(int calls) {
  base::MutexLock lock(mutex_);
  lose_appends_ = calls;
}

void FakeClient::FailDigests(int calls, absl::Status status) {
  base::MutexLock lock(mutex_);
  fail_digests_ = calls;
  digest_error_ = std::move(status);
}

void FakeClient::FailExistsAfter(int calls) {
  base::MutexLock lock(mutex_);
  exists_until_failure_ = calls;
}

void FakeClient::Stop() {
  base::MutexLock lock(mutex_);
  away_ = true;
}

void FakeClient::Restart() {
  base::MutexLock lock(mutex_);
  away_ = false;
  ++session_;
  objects_.clear();
  contexts_.clear();
}

uint64_t FakeClient::session() const {
  base::MutexLock lock(mutex_);
  return away_ ? 0 : session_;
}

absl::Status FakeClient::Reachable() const {
  return away_ ? absl::UnavailableError("the fake store is away") : absl::OkStatus();
}

void FakeClient::RefusePuts(int items) {
  base::MutexLock lock(mutex_);
  refuse_puts_ = items;
}

void FakeClient::Forget(const page::ObjectKey& key) {
  base::MutexLock lock(mutex_);
  objects_.erase(std::string(key.bytes()));
}

uint64_t FakeClient::get_calls() const {
  base::MutexLock lock(mutex_);
  return get_calls_;
}
uint64_t FakeClient::get_items() const {
  base::MutexLock lock(mutex_);
  return get_items_;
}
uint64_t FakeClient::recall_calls() const {
  base::MutexLock lock(mutex_);
  return recall_calls_;
}
size_t FakeClient::objects() const {
  base::MutexLock lock(mutex_);
  return objects_.size();
}
std::string FakeClient::object(const page::ObjectKey& key) const {
  base::MutexLock lock(mutex_);
  const auto it = objects_.find(std::string(key.bytes()));
  return it == objects_.end() ? "" : it->second;
}
std::map<std::string, std::string> FakeClient::AllObjects() const {
  base::MutexLock lock(mutex_);
  return objects_;
}
bool FakeClient::has_context(const std::string& id) const {
  base::MutexLock lock(mutex_);
  return contexts_.count(id) > 0;
}
FakeContext FakeClient::context(const std::string& id) const {
  base::MutexLock lock(mutex_);
  const auto it = contexts_.find(id);
  return it == contexts_.end() ? FakeContext{} : it->second;
}

absl::StatusOr<std::unique_ptr<client::Memory>> FakeClient::Register(std::span<std::byte> memory) {
  return std::make_unique<FakeMemory>(memory);
}
absl::StatusOr<std::unique_ptr<client::Memory>> FakeClient::Allocate(size_t bytes) {
  return std::make_unique<FakeMemory>(bytes);
}

absl::StatusOr<std::vector<client::PutResult>> FakeClient::Put(
    std::span<const client::PutItem> items) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(Reachable());
  if (fail_puts_ > 0) {
    --fail_puts_;
    return put_error_;
  }
  std::vector<client::PutResult> results;
  for (const client::PutItem& item : items) {
    if (refuse_puts_ > 0) {
      --refuse_puts_;
      results.push_back({client::PutOutcome::kNoSpace, "the fake is full"});
      continue;
    }
    std::string value = Gather(item);
    if (item.crc32c && page::Crc32c(value.data(), value.size()) != *item.crc32c) {
      results.push_back({client::PutOutcome::kCorrupt, "checksum differs"});
      continue;
    }
    const bool fresh = objects_.emplace(std::string(item.key.bytes()), std::move(value)).second;
    results.push_back({fresh ? client::PutOutcome::kStored : client::PutOutcome::kExists, ""});
  }
  return results;
}

void FakeClient::PutAsync(
    std::vector<client::PutItem> items,
    std::function<void(absl::StatusOr<std::vector<client::PutResult>>)> done) {
  base::MutexLock lock(mutex_);
  pending_.push_back({std::move(items), std::move(done)});
  changed_.NotifyAll();
}

client::GetResult FakeClient::GetOne(const client::GetItem& item) {
  ++get_items_;
  const auto it = objects_.find(std::string(item.key.bytes()));
  if (it == objects_.end()) return {.reason = client::MissReason::kNeverStored};
  const std::string& value = it->second;
  // The fake's objects are [head][K][V] with as many heads as there are pages of the destination's
  // size.
  client::GetResult result{.hit = true, .tier = client::Tier::kHost};
  const client::Piece& to = item.destinations.front();
  const size_t part = item.range.part == page::Part::kKV ? to.bytes / 2 : to.bytes;
  const size_t begin =
      2 * part * item.range.head_begin + (item.range.part == page::Part::kV ? part : 0);
  if (begin + to.bytes > value.size()) return {.message = "range outside the object"};
  std::memcpy(At(to), value.data() + begin, to.bytes);
  result.bytes = to.bytes;
  return result;
}

absl::StatusOr<std::vector<client::GetResult>> FakeClient::Get(
    std::span<const client::GetItem> items) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(Reachable());
  ++get_calls_;
  if (fail_gets_ > 0) {
    --fail_gets_;
    return get_error_;
  }
  std::vector<client::GetResult> results;
  for (const client::GetItem& item : items) results.push_back(GetOne(item));
  return results;
}

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
  ++context->epoch;
  context->hashes.resize(num_blocks);
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
  if (num_blocks != 0 && num_blocks != context->hashes.size()) return NotFaked();
  FakeContext copy = *context;
  copy.parked = false;
  if (!contexts_.emplace(new_id, copy).second) return absl::AlreadyExistsError(new_id);
  return InfoOf(new_id, copy);
}

absl::StatusOr<client::ContextInfo> FakeClient::AttachContext(const std::string& id) {
  base::MutexLock lock(mutex_);
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(id));
  context->parked = false;
  client::ContextInfo info = InfoOf(id, *context);
  info.block_hashes = context->hashes;
  return info;
}

absl::StatusOr<client::ContextInfo> FakeClient::ParkContext(const std::string& id) {
  base::MutexLock lock(mutex_);
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(id));
  context->parked = true;
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

client::RecallHeadResult FakeClient::RecallHead(const client::RecallQuery& query,
                                                const FakeContext& context,
                                                const client::RecallLayer& layer, uint32_t head) {
  const page::Geometry& g = context.geometry;
  const size_t row = page::DigestBytes(context.kind, g.head_dim, g.dtype);
  const auto* rows = reinterpret_cast<const std::byte*>(context.rows[layer.layer].data());
  const uint32_t n = query.num_blocks;
  const uint32_t group = layer.queries.size() / g.head_dim / g.num_kv_heads;
  std::vector<float> raw(size_t{group} * n), scores(n);
  page::ScorePages({context.kind, g.dtype, g.head_dim, rows + head * row, row * g.num_kv_heads, n},
                   layer.queries.data() + size_t{head} * group * g.head_dim, group, raw.data());
  page::MergeScores(query.merge, raw.data(), group, n, g.head_dim, scores.data());
  std::vector<uint32_t> pinned;
  page::PinnedPages(n, query.sinks, query.window, pinned);
  const client::RecallHead& asked = layer.heads[head];
  client::RecallHeadResult result;
  result.selected.resize(std::max<size_t>(asked.budget_pages, pinned.size()));
  page::SelectScratch scratch;
  result.selected.resize(
      page::SelectPages(scores, pinned, asked.budget_pages, scratch, result.selected));
  for (uint32_t page : result.selected) {
    if (std::binary_search(asked.resident.begin(), asked.resident.end(), page)) continue;
    client::RecalledPage pushed{.page = page,
                                .slot = static_cast<uint32_t>(result.recalled.size())};
    const client::GetResult got = GetOne({*page::MakeObjectKey(context.hashes[page], layer.layer),
                                          {page::Part::kKV, head, 1},
                                          {asked.slots.at(pushed.slot)}});
    pushed.done = got.hit;
    pushed.reason = got.reason;
    result.recalled.push_back(pushed);
  }
  return result;
}

absl::StatusOr<client::RecallResult> FakeClient::Recall(const client::RecallQuery& query) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(Reachable());
  ++recall_calls_;
  if (fail_gets_ > 0) {
    --fail_gets_;
    return get_error_;
  }
  VARVE_ASSIGN_OR_RETURN(FakeContext * context, Find(query.context_id));
  if (query.epoch != context->epoch) return absl::FailedPreconditionError("stale epoch");
  client::RecallResult result;
  for (const client::RecallLayer& layer : query.layers) {
    if (context->digest_blocks[layer.layer] < query.num_blocks) {
      return absl::FailedPreconditionError("too few digests");
    }
    result.layers.emplace_back();
    for (uint32_t head = 0; head < layer.heads.size(); ++head) {
      result.layers.back().push_back(RecallHead(query, *context, layer, head));
    }
  }
  return result;
}

void FakeClient::GetAsync(
    std::vector<client::GetItem> items,
    std::function<void(absl::StatusOr<std::vector<client::GetResult>>)> done) {
  done(Get(items));
}

absl::StatusOr<std::vector<bool>> FakeClient::Exists(std::span<const page::ObjectKey> keys) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(Reachable());
  if (exists_until_failure_ >= 0 && exists_until_failure_-- == 0) {
    return absl::UnavailableError("the fake fails this Exists");
  }
  std::vector<bool> there;
  for (const page::ObjectKey& key : keys) {
    there.push_back(objects_.contains(std::string(key.bytes())));
  }
  return there;
}
absl::StatusOr<uint32_t> FakeClient::LongestPrefix(std::span<const page::ObjectKey>) {
  return NotFaked();
}
absl::StatusOr<std::vector<bool>> FakeClient::Remove(std::span<const page::ObjectKey>, bool) {
  return NotFaked();
}
absl::StatusOr<std::vector<bool>> FakeClient::Pin(std::span<const page::ObjectKey>,
                                                  absl::Duration) {
  return NotFaked();
}
absl::StatusOr<std::vector<bool>> FakeClient::Unpin(std::span<const page::ObjectKey>) {
  return NotFaked();
}
absl::StatusOr<client::ObjectPage> FakeClient::List(std::string_view, uint32_t,
                                                    const std::string&) {
  return NotFaked();
}
absl::StatusOr<client::PutResult> FakeClient::PutInline(const page::ObjectKey&,
                                                        std::span<const std::byte>,
                                                        const page::ObjectLayout&) {
  return NotFaked();
}
absl::StatusOr<client::GetResult> FakeClient::GetInline(const page::ObjectKey&,
                                                        const page::ObjectRange&, std::string*) {
  return NotFaked();
}
absl::StatusOr<std::vector<client::ContextInfo>> FakeClient::ListContexts() { return NotFaked(); }
absl::StatusOr<client::StoreStatus> FakeClient::Status() { return NotFaked(); }
absl::StatusOr<std::string> FakeClient::Config() { return NotFaked(); }
absl::Status FakeClient::Drain() { return NotFaked(); }
absl::StatusOr<client::EvictOutcome> FakeClient::Evict(const std::string&, std::string_view) {
  return NotFaked();
}
absl::Status FakeClient::Echo(size_t) { return NotFaked(); }

}  // namespace varve::testing
