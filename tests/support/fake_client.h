// A client without a store: objects and contexts in a map, moved when the test says. For unit tests
// of what stands on client::Client; the real one is tested against real stores.
//
// Puts read the caller's memory when they complete, not when they are posted, so a slot that is
// reused too early is stored with the wrong bytes and shows. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "kvstore/base/mutex.h"

namespace varve::testing {

struct FakeContext {
  page::Geometry geometry;
  page::DigestKind kind = page::DigestKind::kMinMax;
  uint32_t epoch = 0;
  std::vector<std::string> hashes;
  std::vector<std::string> rows;  // by layer
  std::vector<uint32_t> digest_blocks;
  bool parked = false;
  uint32_t others_attached = 0;
  std::vector<client::HotPages> hot;
};

class FakeClient : public client::Client {
 public:
  FakeClient();
  ~FakeClient() override;

  // Puts are kept back until ReleasePuts.
  void HoldPuts();
  void ReleasePuts();
  size_t held_puts() const;
  uint64_t put_items() const;
  uint64_t digest_rows() const;  // sent
  // The next calls fail so: counted in calls.
  void FailPuts(int calls, absl::Status status);
  void FailGets(int calls, absl::Status status);
  // Gets and Recalls of the prefetch class: kept back until released, and moved then; failed.
  void HoldPrefetches();
  void ReleasePrefetches();
  void FailPrefetches(int calls, absl::Status status);
  uint64_t prefetch_calls() const;  // begun
  uint64_t held_prefetches() const;
  void FailDigests(int calls, absl::Status status);
  // Exists fails once, after so many calls.
  void FailExistsAfter(int calls);
  // The next appends are done, their answers lost.
  void LoseAppendReplies(int calls);
  // Answers of single items.
  void RefusePuts(int items);
  void Forget(const page::ObjectKey& key);

  uint64_t get_calls() const;
  uint64_t get_items() const;
  uint64_t recall_calls() const;
  uint64_t fetched_bytes() const;  // by Gets and Recalls
  size_t objects() const;
  std::string object(const page::ObjectKey& key) const;
  page::ObjectKey parent(const page::ObjectKey& key) const;
  std::map<std::string, std::string> AllObjects() const;
  bool has_context(const std::string& id) const;
  FakeContext context(const std::string& id) const;

  // The store is gone: calls that need it fail with UNAVAILABLE.
  void Stop();
  // A store without anything, in a new session.
  void Restart();
  // A store with all that it had, in a new session: contexts are parked and in a new epoch.
  void RestartWithAll();
  // Another session is attached to the context too.
  void AttachAnother(const std::string& id);

  std::string lane() const override { return "fake"; }
  uint64_t session() const override;
  absl::StatusOr<std::unique_ptr<client::Memory>> Register(std::span<std::byte> memory) override;
  absl::StatusOr<std::unique_ptr<client::Memory>> Allocate(size_t bytes) override;
  absl::StatusOr<std::vector<bool>> Exists(std::span<const page::ObjectKey> keys) override;
  absl::StatusOr<uint32_t> LongestPrefix(std::span<const page::ObjectKey> keys) override;
  absl::StatusOr<std::vector<client::PutResult>> Put(
      std::span<const client::PutItem> items) override;
  absl::StatusOr<std::vector<client::GetResult>> Get(
      std::span<const client::GetItem> items) override;
  void PutAsync(std::vector<client::PutItem> items,
                std::function<void(absl::StatusOr<std::vector<client::PutResult>>)> done) override;
  void GetAsync(std::vector<client::GetItem> items,
                std::function<void(absl::StatusOr<std::vector<client::GetResult>>)> done) override;
  absl::StatusOr<std::vector<bool>> Remove(std::span<const page::ObjectKey> keys,
                                           bool force) override;
  absl::StatusOr<std::vector<bool>> Pin(std::span<const page::ObjectKey> keys,
                                        absl::Duration ttl) override;
  absl::StatusOr<std::vector<bool>> Unpin(std::span<const page::ObjectKey> keys) override;
  // All on one page; sizes, tiers and prompt tokens only.
  absl::StatusOr<client::ObjectPage> List(std::string_view key_prefix, uint32_t page_size,
                                          const std::string& page_token) override;
  absl::StatusOr<client::PutResult> PutInline(const page::ObjectKey& key,
                                              std::span<const std::byte> value,
                                              const client::ValueInfo& info) override;
  absl::StatusOr<client::GetResult> GetInline(const page::ObjectKey& key,
                                              const page::ObjectRange& range,
                                              std::string* value) override;
  absl::StatusOr<client::ContextInfo> OpenContext(const std::string& id,
                                                  const page::Geometry& geometry,
                                                  page::DigestKind kind) override;
  absl::StatusOr<client::ContextInfo> AppendContext(
      const std::string& id, uint32_t first_block,
      std::span<const std::string> block_hashes) override;
  absl::StatusOr<client::ContextInfo> TruncateContext(const std::string& id,
                                                      uint32_t num_blocks) override;
  absl::StatusOr<client::ContextInfo> ForkContext(const std::string& id, const std::string& new_id,
                                                  uint32_t num_blocks) override;
  absl::StatusOr<client::ContextInfo> AttachContext(const std::string& id) override;
  using client::Client::ParkContext;
  absl::StatusOr<client::ContextInfo> ParkContext(const std::string& id,
                                                  std::span<const client::HotPages> hot) override;
  absl::Status DropContext(const std::string& id) override;
  absl::StatusOr<std::vector<client::ContextInfo>> ListContexts() override;
  absl::Status SendDigests(const std::string& id, uint32_t epoch, uint32_t layer,
                           uint32_t first_block, uint32_t num_blocks, std::string rows,
                           absl::Time sealed) override;
  absl::Status ReadDigests(
      const std::string& id, uint32_t epoch, uint32_t layer_begin, uint32_t layer_count,
      const std::function<absl::Status(uint32_t, uint32_t, uint32_t, std::string_view)>& sink)
      override;
  using client::Client::Recall;
  absl::StatusOr<client::RecallResult> Recall(const client::RecallQuery& query,
                                              const client::OnRecalledLayer& on_layer) override;
  absl::StatusOr<client::StoreStatus> Status() override;
  absl::StatusOr<std::string> Config() override;
  absl::Status Drain() override;
  absl::StatusOr<client::EvictOutcome> Evict(const std::string&, std::string_view) override;
  absl::StatusOr<std::vector<client::PrefetchOutcome>> Prefetch(
      std::span<const page::ObjectKey> keys) override;
  absl::StatusOr<std::vector<std::string>> ListNamespaces() override;
  absl::Status AddDirectory(const std::string& path, uint64_t capacity_bytes) override;
  void DrainDirectoryAsync(const std::string& path,
                           std::function<void(absl::Status)> done) override;
  void DrainTierAsync(client::Tier tier,
                      std::function<void(absl::StatusOr<uint64_t>)> done) override;
  void ResizeTierAsync(client::Tier tier, uint64_t capacity_bytes,
                       std::function<void(absl::Status)> done) override;
  absl::Status Echo(size_t bytes) override;

 private:
  struct Pending {
    std::vector<client::PutItem> items;
    std::function<void(absl::StatusOr<std::vector<client::PutResult>>)> done;
  };

  void Loop();
  absl::Status Reachable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status BeginFetch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<FakeContext*> Find(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  client::ContextInfo InfoOf(const std::string& id, const FakeContext& context) const;
  client::GetResult GetOne(const client::GetItem& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<client::RecallHeadResult> RecallHeads(const client::RecallQuery& query,
                                                    const FakeContext& context,
                                                    const client::RecallLayer& layer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::map<std::string, std::string> objects_ ABSL_GUARDED_BY(mutex_);
  struct Said {
    uint32_t prompt_tokens = 0;
    uint32_t tokens = 0;
    page::ObjectKey parent;
  };
  std::map<std::string, Said> said_ ABSL_GUARDED_BY(mutex_);  // of objects, when first put
  std::map<std::string, FakeContext> contexts_ ABSL_GUARDED_BY(mutex_);
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mutex_);
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool away_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t session_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int fail_puts_ ABSL_GUARDED_BY(mutex_) = 0;
  bool hold_prefetches_ ABSL_GUARDED_BY(mutex_) = false;
  int fail_prefetches_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t held_prefetches_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t prefetch_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int fail_gets_ ABSL_GUARDED_BY(mutex_) = 0;
  int fail_digests_ ABSL_GUARDED_BY(mutex_) = 0;
  int exists_until_failure_ ABSL_GUARDED_BY(mutex_) = -1;  // -1: none
  int refuse_puts_ ABSL_GUARDED_BY(mutex_) = 0;
  int lose_appends_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status put_error_, get_error_, prefetch_error_, digest_error_;
  uint64_t get_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t get_items_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t recall_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t fetched_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t next_epoch_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t put_items_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t digest_rows_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

}  // namespace varve::testing
