// A page store over a disk whose every step the test decides.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/host_tier.h"
#include "tests/support/fake_record_log.h"
#include "tests/support/manual_clock.h"
#include "tests/support/manual_executor.h"

namespace varve::store {

class DiskFixture {
 public:
  static constexpr uint64_t kSlot = 8192;
  static constexpr uint64_t kHostSlots = 16;
  static constexpr uint64_t kMaxHostSlots = 64;
  static constexpr uint64_t kMaxObjectBytes = 64 << 10;

  struct Options {
    Durability durability = Durability::kMemory;
    uint64_t disk_slots = 64;  // 0: no disk
    uint32_t promote_uses = 2;
    std::string eviction = "lru";  // of both tiers
  };

  explicit DiskFixture(const Options& options)
      : options_(options),
        log_(std::make_unique<tier::FakeRecordLog>(options.disk_slots * kSlot)),
        host_(MakeHost()),
        staging_(*tier::HostTier::Create({.capacity_bytes = 1 << 20})) {
    Open();
  }
  ~DiskFixture() { Settle(); }

  // The process dies here; what the disk has by now is there again.
  void Crash() {
    std::unique_ptr<tier::FakeRecordLog> left = log_->AfterCrash();
    Settle();
    store_.reset();
    log_ = std::move(left);
    host_ = MakeHost();
    Open();
  }
  // Everything that was begun ends.
  void Settle() {
    while (log_->pending() > 0 || executor_.pending() > 0) {
      executor_.RunAll();
      log_->EndAll();
    }
  }

  static page::ObjectKey Key(std::string_view name) { return *page::ObjectKey::FromBytes(name); }
  static std::vector<std::byte> Value(std::string_view name, size_t bytes = kSlot) {
    std::mt19937_64 random(std::hash<std::string_view>()(name));
    std::vector<std::byte> value(bytes);
    for (std::byte& b : value) b = static_cast<std::byte>(random());
    return value;
  }
  // Nothing until the store has answered.
  using Answer = std::shared_ptr<std::optional<absl::Status>>;
  // version: of the value under this name.
  Answer Put(std::string_view name, int version = 0, ObjectMeta meta = {.bytes = kSlot},
             std::string_view parent = {}) {
    auto answer = std::make_shared<std::optional<absl::Status>>();
    auto put = store_->Reserve(ns_, Key(name), meta, parent);
    if (!put.ok()) {
      *answer = put.status();
      return answer;
    }
    const auto value = Value(VersionName(name, version), meta.bytes);
    std::memcpy((*put)->memory().data(), value.data(), value.size());
    (*put)->Commit(std::nullopt, [answer](absl::Status status) { *answer = std::move(status); });
    return answer;
  }
  static std::string VersionName(std::string_view name, int version) {
    return std::string(name) + "/" + std::to_string(version);
  }

  // A Get with all that it waits for: the version read, or nothing for a miss; -1: wrong bytes.
  std::optional<int> Read(std::string_view name, int versions = 1) {
    Miss miss;
    std::unique_ptr<GetHandle> get = store_->Acquire(ns_, Key(name), &miss);
    last_miss_ = miss.reason;
    if (get == nullptr) return std::nullopt;
    last_tier_ = get->tier();
    if (!Load(*get)) return std::nullopt;
    if (!get->Verify({}).ok()) return std::nullopt;
    for (int version = 0; version < versions; ++version) {
      const auto value = Value(VersionName(name, version), get->meta().bytes);
      if (std::ranges::equal(get->memory(), value)) return version;
    }
    return -1;
  }
  bool Load(GetHandle& get) {
    std::optional<absl::Status> loaded;
    get.Load({}, absl::InfiniteFuture(), [&](absl::Status status) { loaded = std::move(status); });
    while (!loaded.has_value() && log_->pending() > 0) log_->End(log_->pending() - 1);
    load_status_ = loaded.value_or(absl::UnknownError("the load never ended"));
    return load_status_.ok();
  }

  PageStore& store() { return *store_; }
  tier::FakeRecordLog& log() { return *log_; }
  base::ManualExecutor& executor() { return executor_; }
  testing_support::ManualClock& clock() { return clock_; }
  tier::Tier& host() { return *host_; }
  NamespaceId ns() const { return ns_; }
  PageStoreUsage::Disk Disk() const { return *store_->Usage().disk; }
  MissReason last_miss() const { return last_miss_; }
  TierId last_tier() const { return last_tier_; }
  const absl::Status& load_status() const { return load_status_; }

 private:
  static std::unique_ptr<tier::HostTier> MakeHost() {
    return *tier::HostTier::Create(
        {.capacity_bytes = kHostSlots * kSlot, .max_capacity_bytes = kMaxHostSlots * kSlot});
  }
  void Open() {
    PageStoreOptions options;
    options.eviction = options_.eviction;
    options.max_object_bytes = kMaxObjectBytes;
    if (options_.disk_slots > 0)
      options.disk = DiskOptions{.log = log_.get(),
                                 .staging = staging_.get(),
                                 .executor = &executor_,
                                 .durability = options_.durability,
                                 .eviction = options_.eviction,
                                 .promote_uses = options_.promote_uses};
    auto store = PageStore::Create(host_.get(), options, &clock_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    ns_ = *store_->InternNamespace("model");
  }

  const Options options_;
  testing_support::ManualClock clock_;
  base::ManualExecutor executor_;
  std::unique_ptr<tier::FakeRecordLog> log_;
  std::unique_ptr<tier::HostTier> host_;
  std::unique_ptr<tier::HostTier> staging_;
  std::unique_ptr<PageStore> store_;
  NamespaceId ns_ = 0;
  MissReason last_miss_ = MissReason::kNeverStored;
  TierId last_tier_ = TierId::kHost;
  absl::Status load_status_;
};

inline std::string Name(int i) { return "block-hash-" + std::to_string(100000 + i); }

inline void Fill(DiskFixture& f, int from, int to) {
  for (int i = from; i < to; ++i) {
    f.clock().Advance(absl::Seconds(1));
    const auto answer = f.Put(Name(i));
    ASSERT_TRUE(answer->has_value() && (*answer)->ok()) << Name(i) << ": " << **answer;
    f.Settle();
  }
}

}  // namespace varve::store
