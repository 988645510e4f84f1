#include "tests/support/fake_client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "client/prefetch_calls.h"
#include "kvstore/base/status.h"
#include "kvstore/page/checksum.h"

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

void FakeClient::HoldPrefetches() {
  base::MutexLock lock(mutex_);
  hold_prefetches_ = true;
}

void FakeClient::ReleasePrefetches() {
  base::MutexLock lock(mutex_);
  hold_prefetches_ = false;
  changed_.NotifyAll();
}

void FakeClient::FailPrefetches(int calls, absl::Status status) {
  base::MutexLock lock(mutex_);
  fail_prefetches_ = calls;
  prefetch_error_ = std::move(status);
}

uint64_t FakeClient::held_prefetches() const {
  base::MutexLock lock(mutex_);
  return held_prefetches_;
}

uint64_t FakeClient::prefetch_calls() const {
  base::MutexLock lock(mutex_);
  return prefetch_calls_;
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
  next_epoch_ = 1;
}

void FakeClient::RestartWithAll() {
  base::MutexLock lock(mutex_);
  away_ = false;
  ++session_;
  for (auto& [id, context] : contexts_) {
    context.parked = true;
    context.hot.clear();
    context.epoch = next_epoch_++;
  }
}

void FakeClient::AttachAnother(const std::string& id) {
  base::MutexLock lock(mutex_);
  ++contexts_.at(id).others_attached;
}

uint64_t FakeClient::put_items() const {
  base::MutexLock lock(mutex_);
  return put_items_;
}

uint64_t FakeClient::digest_rows() const {
  base::MutexLock lock(mutex_);
  return digest_rows_;
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
uint64_t FakeClient::fetched_bytes() const {
  base::MutexLock lock(mutex_);
  return fetched_bytes_;
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
page::ObjectKey FakeClient::parent(const page::ObjectKey& key) const {
  base::MutexLock lock(mutex_);
  return said_.at(std::string(key.bytes())).parent;
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
    ++put_items_;
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
    if (fresh)
      said_[std::string(item.key.bytes())] = {item.prompt_tokens, item.tokens, item.parent};
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
  // The fake's objects are [head][K][V]; what is asked for gives the size of a page.
  const client::Piece& to = item.destinations.front();
  const size_t bytes = to.bytes / item.range.head_count;
  const size_t part = item.range.part == page::Part::kKV ? bytes / 2 : bytes;
  for (size_t h = 0; h < item.range.head_count; ++h) {
    const size_t begin =
        2 * part * (item.range.head_begin + h) + (item.range.part == page::Part::kV ? part : 0);
    if (begin + bytes > value.size()) return {.message = "range outside the object"};
    std::memcpy(At(to) + h * bytes, value.data() + begin, bytes);
  }
  fetched_bytes_ += to.bytes;
  return {.hit = true, .tier = client::Tier::kHost, .bytes = to.bytes};
}

absl::Status FakeClient::BeginFetch() {
  VARVE_RETURN_IF_ERROR(Reachable());
  int& failing = client::PrefetchCalls::On() ? fail_prefetches_ : fail_gets_;
  if (client::PrefetchCalls::On()) {
    ++prefetch_calls_;
    ++held_prefetches_;
    while (hold_prefetches_) changed_.Wait(mutex_);
    --held_prefetches_;
  }
  if (failing == 0) return absl::OkStatus();
  --failing;
  return client::PrefetchCalls::On() ? prefetch_error_ : get_error_;
}

absl::StatusOr<std::vector<client::GetResult>> FakeClient::Get(
    std::span<const client::GetItem> items) {
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(BeginFetch());
  ++get_calls_;
  std::vector<client::GetResult> results;
  for (const client::GetItem& item : items) results.push_back(GetOne(item));
  return results;
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
absl::StatusOr<client::ObjectPage> FakeClient::List(std::string_view key_prefix, uint32_t,
                                                    const std::string&) {
  base::MutexLock lock(mutex_);
  client::ObjectPage page;
  for (const auto& [key, value] : objects_) {
    if (!key.starts_with(key_prefix)) continue;
    page.objects.push_back({.key = *page::ObjectKey::FromBytes(key),
                            .bytes = value.size(),
                            .tier = client::Tier::kHost,
                            .prompt_tokens = said_.at(key).prompt_tokens,
                            .tokens = said_.at(key).tokens});
  }
  return page;
}
absl::StatusOr<client::PutResult> FakeClient::PutInline(const page::ObjectKey&,
                                                        std::span<const std::byte>,
                                                        const client::ValueInfo&) {
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
absl::StatusOr<std::vector<client::PrefetchOutcome>> FakeClient::Prefetch(
    std::span<const page::ObjectKey>) {
  return NotFaked();
}
absl::StatusOr<std::vector<std::string>> FakeClient::ListNamespaces() { return NotFaked(); }
absl::Status FakeClient::AddDirectory(const std::string&, uint64_t) { return NotFaked(); }
void FakeClient::DrainDirectoryAsync(const std::string&, std::function<void(absl::Status)> done) {
  done(NotFaked());
}
void FakeClient::DrainTierAsync(client::Tier, std::function<void(absl::StatusOr<uint64_t>)> done) {
  done(NotFaked());
}
void FakeClient::ResizeTierAsync(client::Tier, uint64_t, std::function<void(absl::Status)> done) {
  done(NotFaked());
}
absl::Status FakeClient::Echo(size_t) { return NotFaked(); }

}  // namespace varve::testing
