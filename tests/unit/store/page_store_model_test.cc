// The page store over a disk against a plain map: random operations, operations of the disk that
// end in any order, faults, and crashes.
#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/store/disk_fixture.h"

namespace varve::store {
namespace {

class Walk {
 public:
  Walk(uint64_t seed, Durability durability)
      : random_(seed),
        durability_(durability),
        f_({.durability = durability,
            .disk_slots = 20 + seed % 3 * 20,
            .promote_uses = 1 + static_cast<uint32_t>(seed % 2)}) {}

  void Step() {
    const uint64_t dice = random_() % 100;
    if (dice < 30) {
      Put();
    } else if (dice < 55) {
      Get();
    } else if (dice < 62) {
      Remove();
    } else if (dice < 66) {
      Pin();
    } else if (dice < 70) {
      Hold();
    } else if (dice < 72) {
      f_.clock().Advance(absl::Milliseconds(random_() % 2000));
      f_.store().Tick();
    } else if (dice < 74) {
      Prefetch();
    } else if (dice < 77) {
      Fault();
    } else if (dice < 78 && random_() % 4 == 0) {
      Crash();
    } else {
      Progress();
    }
    CheckAnswers();
  }

  void Finish() {
    Calm();
    handles_.clear();
    f_.Settle();
    CheckAnswers();
    for (int i = 0; i < kKeys; ++i) Check(Name(i), f_.Read(Name(i), kVersions));
    f_.Settle();
    const PageStoreUsage usage = f_.store().Usage();
    ASSERT_EQ(usage.disk->queued_objects, 0u);
    ASSERT_EQ(usage.disk->queued_bytes, 0u);
    ASSERT_EQ(usage.disk->promoting_objects, 0u);
    ASSERT_EQ(f_.host().Usage().slots, usage.host_objects) << "a slot has leaked";
    ASSERT_EQ(f_.log().records().size(), usage.disk->objects) << "a record has leaked";
  }

 private:
  static constexpr int kKeys = 60;
  static constexpr int kVersions = 64;

  struct Entry {
    std::set<int> allowed;        // versions that a reader may see
    std::optional<int> promised;  // acknowledged as safe: must be there, unless evicted
  };
  struct PendingPut {
    std::string name;
    int version;
    DiskFixture::Answer answer;
  };

  static std::string Name(int i) {
    return "group-" + std::to_string(i / 4) + "-000" + std::to_string(i % 4);
  }
  static std::string Group(int i) { return "group-" + std::to_string(i / 4) + "-"; }
  std::string AnyName() { return Name(static_cast<int>(random_() % kKeys)); }

  // A version of the key that nobody has put: so that an old one is known by its bytes.
  void Put() {
    const std::string name = AnyName();
    int& next = next_version_[name];
    if (next == kVersions) return;
    const int version = next++;
    const auto answer = f_.Put(name, version);
    if (answer->has_value() && !(*answer)->ok()) return CheckRefusal(name, **answer);
    Entry& entry = entries_[name];
    entry.allowed.insert(version);
    entry.promised.reset();  // it was evicted, or this one would have been refused
    puts_.push_back({name, version, answer});
  }
  void CheckRefusal(const std::string& name, const absl::Status& status) {
    if (absl::IsAlreadyExists(status)) {
      ASSERT_TRUE(f_.store().Exists(f_.ns(), f_.Key(name)));
    } else {
      ASSERT_TRUE(absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) << status;
    }
  }
  void CheckAnswers() {
    std::erase_if(puts_, [this](const PendingPut& put) {
      if (!put.answer->has_value()) return false;
      Entry& entry = entries_[put.name];
      const absl::Status& status = **put.answer;
      // One that was refused is not stored, and one that is safe replaces all before it.
      if (!status.ok()) {
        EXPECT_NE(durability_, Durability::kMemory) << status;
      } else if (durability_ == Durability::kNvmeSync && entry.allowed.contains(put.version)) {
        entry.promised = put.version;
      }
      return true;
    });
  }

  // A reader may see the newest version that was not removed, or nothing.
  void Check(const std::string& name, std::optional<int> version) {
    if (!version.has_value()) return;
    ASSERT_NE(*version, -1) << name << ": wrong bytes";
    ASSERT_TRUE(entries_[name].allowed.contains(*version)) << name << ": version " << *version;
  }
  void Get() {
    const std::string name = AnyName();
    if (random_() % 3 > 0) return Check(name, f_.Read(name, kVersions));
    // One that stays open.
    if (handles_.size() > 4) handles_.erase(handles_.begin());
    auto get = f_.store().Acquire(f_.ns(), f_.Key(name), nullptr);
    if (get != nullptr) handles_.push_back(std::move(get));
  }
  void Remove() {
    const std::string name = AnyName();
    const bool there = f_.store().Exists(f_.ns(), f_.Key(name));
    if (!f_.store().Remove(f_.ns(), f_.Key(name), true)) {
      ASSERT_FALSE(there);
      return;
    }
    Entry& entry = entries_[name];
    // The removal may be lost in a crash; then what was there is there again.
    removed_[name].insert(entry.allowed.begin(), entry.allowed.end());
    entry = {};
    // Puts of it that are still being made safe are removed as well.
    for (const PendingPut& put : puts_) {
      if (put.name == name) removed_[name].insert(put.version);
    }
    ASSERT_EQ(f_.Read(name), std::nullopt);
  }
  void Pin() {
    const page::ObjectKey key = f_.Key(AnyName());
    if (random_() % 2 == 0) {
      f_.store().Pin(f_.ns(), key, random_() % 3, absl::Milliseconds(1 + random_() % 3000));
    } else {
      f_.store().UnpinAll(random_() % 3);
    }
  }
  void Hold() {
    const std::vector<std::string> group = {Group(static_cast<int>(random_() % 12))};
    if (random_() % 2 == 0 && held_.size() < 3) {
      if (held_.insert(group[0]).second) f_.store().Hold(f_.ns(), group);
    } else if (held_.erase(group[0]) > 0) {
      f_.store().Release(f_.ns(), group);
    }
  }
  void Prefetch() {
    std::vector<page::ObjectKey> keys;
    for (int i = 0; i < 4; ++i) keys.push_back(f_.Key(AnyName()));
    f_.store().Prefetch(f_.ns(), keys);
  }
  void Fault() {
    switch (random_() % 5) {
      case 0:
        return f_.log().FailAppends(1 + static_cast<int>(random_() % 3),
                                    absl::DataLossError("EIO"));
      case 1:
        return f_.log().FailAppends(2, absl::ResourceExhaustedError("ENOSPC"));
      case 2:
        return f_.log().FailReads(1, absl::DataLossError("EIO"));
      case 3:
        f_.log().SetState(tier::DirectoryState::kFailed);
        break;
      default:
        f_.log().SetState(tier::DirectoryState::kOk);
    }
    f_.store().Tick();
  }
  void Calm() {
    f_.log().FailAppends(0, absl::OkStatus());
    f_.log().FailReads(0, absl::OkStatus());
    f_.log().SetState(tier::DirectoryState::kOk);
    f_.store().Tick();
  }
  void Progress() {
    for (uint64_t n = random_() % 8; n > 0; --n) {
      if (f_.executor().pending() > 0 && random_() % 2 == 0) f_.executor().RunOne();
      if (f_.log().pending() > 0) f_.log().End(random_() % f_.log().pending());
    }
  }
  void Crash() {
    Calm();
    handles_.clear();
    held_.clear();
    CheckAnswers();
    const bool faults_before = f_.Disk().read_errors + f_.Disk().eviction.evicted_objects > 0;
    // What was promised and is there now must be there afterwards.
    std::map<std::string, int> promised;
    for (const auto& [name, entry] : entries_) {
      if (entry.promised.has_value() && f_.store().Exists(f_.ns(), f_.Key(name))) {
        promised[name] = *entry.promised;
      }
    }
    f_.Crash();
    puts_.clear();
    // Removals that had not ended may be undone.
    for (const auto& [name, versions] : removed_) {
      entries_[name].allowed.insert(versions.begin(), versions.end());
    }
    removed_.clear();
    for (const auto& [name, version] : promised) {
      const std::optional<int> found = f_.Read(name, kVersions);
      // Evicted from the disk alone, it was in memory only.
      ASSERT_TRUE(found == version || faults_before) << name;
    }
    for (int i = 0; i < kKeys; ++i) {
      const std::optional<int> version = f_.Read(Name(i), kVersions);
      Check(Name(i), version);
      // From now on it is this one.
      if (version.has_value()) entries_[Name(i)].allowed = {*version};
    }
  }

  std::mt19937_64 random_;
  const Durability durability_;
  DiskFixture f_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::set<int>> removed_;  // since the last crash
  std::map<std::string, int> next_version_;
  std::vector<PendingPut> puts_;
  std::vector<std::unique_ptr<GetHandle>> handles_;
  std::set<std::string> held_;
};

class PageStoreModelTest : public testing::TestWithParam<Durability> {};

TEST_P(PageStoreModelTest, AgreesWithAPlainMap) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Walk walk(seed, GetParam());
    for (int step = 0; step < 1500; ++step) {
      walk.Step();
      if (testing::Test::HasFailure()) FAIL() << "at step " << step;
    }
    walk.Finish();
    if (testing::Test::HasFailure()) FAIL() << "at the end";
  }
}

INSTANTIATE_TEST_SUITE_P(AllDurabilities, PageStoreModelTest,
                         testing::Values(Durability::kMemory, Durability::kNvmeAsync,
                                         Durability::kNvmeSync),
                         [](const auto& info) {
                           switch (info.param) {
                             case Durability::kMemory:
                               return "memory";
                             case Durability::kNvmeAsync:
                               return "nvme_async";
                             case Durability::kNvmeSync:
                               return "nvme_sync";
                           }
                           return "";
                         });

}  // namespace
}  // namespace varve::store
