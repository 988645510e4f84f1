// Random changes of contexts against a model, over restarts, crashes that lose the end of the
// journal, and journals with holes.
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kvstore/recall/context_note.h"
#include "tests/unit/recall/fake_journal.h"
#include "tests/unit/recall/recall_fixture.h"

namespace varve::recall {
namespace {

constexpr uint64_t kSeed = 20261121;
constexpr uint32_t kLayers = 2;

// What a context is: no two appends ever bring the same hash or the same digest.
struct Model {
  std::vector<std::string> hashes;
  std::vector<std::string> rows[kLayers];  // a string for each block
  friend bool operator==(const Model&, const Model&) = default;
  bool BeginsWith(const Model& other) const {
    const auto begins = [](const auto& all, const auto& start) {
      return start.size() <= all.size() && std::equal(start.begin(), start.end(), all.begin());
    };
    return begins(hashes, other.hashes) && begins(rows[0], other.rows[0]) &&
           begins(rows[1], other.rows[1]);
  }
};
using Name = std::pair<std::string, std::string>;  // namespace, id
using Models = std::map<Name, Model>;

class ContextRecoveryModel : public RecallTest, public testing::WithParamInterface<int> {
 protected:
  void SetUp() override {
    std::cout << "seed " << kSeed << " + " << GetParam() << "\n";
    random_.seed(kSeed + GetParam());
    Restart();
  }
  void TearDown() override { table_.reset(); }  // before its journal
  void Restart(ContextTableOptions options = {}) {
    options.journal = &journal_;
    Start(options);
    for (const auto& [name, model] : models_) epochs_of_past_.insert(epochs_[name]);
    epochs_.clear();
    models_ = Look();
    moments_ = {{journal_.position(), models_}};
    written_ = {0};
  }
  // What was gathered is lost.
  void Crash(size_t position) {
    journal_.Drop(true);
    table_.reset();
    journal_.Drop(false);
    journal_.LoseAfter(position);
  }
  uint32_t Below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }
  store::NamespaceId Ns(const Name& name) { return *store_->InternNamespace(name.first); }

  // What the table has, read through its own interface.
  Models Look() {
    Models found;
    for (const char* ns : {"x", "y"}) {
      const store::NamespaceId number = *store_->InternNamespace(ns);
      for (const ContextSnapshot& listed : table_->List(number, "", 1000)) {
        EXPECT_EQ(listed.attached_sessions, 0u);
        EXPECT_FALSE(epochs_of_past_.contains(listed.epoch)) << "an epoch again";
        const Name name(ns, listed.context_id);
        epochs_[name] = listed.epoch;
        Model& model = found[name];
        model.hashes = table_->Attach(number, listed.context_id, kSession)->block_hashes;
        EXPECT_TRUE(table_->Park(number, listed.context_id, kSession).ok());
        for (uint32_t l = 0; l < kLayers; ++l) {
          const uint32_t blocks = listed.digest_blocks[l];
          const auto rows =
              table_->ReadDigests(number, listed.context_id, listed.epoch, l, 0, blocks);
          EXPECT_TRUE(rows.ok()) << rows.status();
          const size_t row_bytes = page::DigestRowBytes(listed.options.digest_kind, kShape);
          for (uint32_t b = 0; b < blocks; ++b) {
            model.rows[l].push_back(rows->substr(b * row_bytes, row_bytes));
          }
        }
        EXPECT_TRUE(model.rows[0].size() <= model.hashes.size() &&
                    model.rows[1].size() <= model.hashes.size());
      }
    }
    return found;
  }

  void Open(const Name& name) {
    const auto opened = table_->Open(Ns(name), name.second, {kShape}, kSession);
    EXPECT_EQ(opened.ok(), !models_.contains(name)) << opened.status();
    if (!opened.ok()) return;
    epochs_[name] = opened->epoch;
    models_[name] = {};
  }
  void Append(const Name& name) {
    Model& model = models_[name];
    const auto first = static_cast<uint32_t>(model.hashes.size());
    const auto hashes = Hashes(++unique_, first, 1 + Below(Below(10) == 0 ? 40 : 4));
    ASSERT_TRUE(table_->Append(Ns(name), name.second, first, hashes).ok());
    model.hashes.insert(model.hashes.end(), hashes.begin(), hashes.end());
  }
  void Digest(const Name& name) {
    Model& model = models_[name];
    const uint32_t layer = Below(kLayers);
    auto& rows = model.rows[layer];
    const auto first = static_cast<uint32_t>(rows.size());
    const auto left = static_cast<uint32_t>(model.hashes.size()) - first;
    if (left == 0) return;
    const uint32_t count = 1 + Below(left);
    std::string sent = RandomDigests({kShape}, ++unique_, first, count);
    const size_t row_bytes = sent.size() / count;
    for (uint32_t b = 0; b < count; ++b) rows.push_back(sent.substr(b * row_bytes, row_bytes));
    // Some that are there are sent once more.
    const uint32_t again = Below(std::min(first, 3u) + 1);
    for (uint32_t b = 1; b <= again; ++b) sent.insert(0, rows[first - b]);
    const auto added = table_->AppendDigests(Ns(name), name.second, epochs_[name], layer,
                                             first - again, count + again, sent);
    ASSERT_TRUE(added.ok()) << added.status();
  }
  void Truncate(const Name& name) {
    Model& model = models_[name];
    const uint32_t blocks = Below(static_cast<uint32_t>(model.hashes.size()) + 1);
    const auto truncated = table_->Truncate(Ns(name), name.second, blocks);
    ASSERT_TRUE(truncated.ok()) << truncated.status();
    epochs_[name] = truncated->epoch;
    Cut(model, blocks);
  }
  static void Cut(Model& model, uint32_t blocks) {
    model.hashes.resize(blocks);
    for (auto& rows : model.rows) rows.resize(std::min<size_t>(rows.size(), blocks));
  }
  void Fork(const Name& name) {
    const Name fork(name.first, absl::StrCat("c", Below(6)));
    Model model = models_[name];
    const uint32_t blocks = Below(static_cast<uint32_t>(model.hashes.size()) + 1);
    const auto forked = table_->Fork(Ns(name), name.second, fork.second, blocks, kSession);
    EXPECT_EQ(forked.ok(), !models_.contains(fork)) << forked.status();
    if (!forked.ok()) return;
    if (blocks > 0) Cut(model, blocks);
    epochs_[fork] = forked->epoch;
    models_[fork] = std::move(model);
  }
  void Drop(const Name& name) {
    ASSERT_TRUE(table_->Drop(Ns(name), name.second).ok());
    epochs_of_past_.insert(epochs_[name]);
    models_.erase(name);
  }
  // One random change, and what is there after it.
  void Change() {
    const Name any(Below(2) == 0 ? "x" : "y", absl::StrCat("c", Below(6)));
    const uint32_t what = Below(100);
    if (models_.empty() || what < 10) {
      Open(any);
    } else {
      auto at = models_.begin();
      std::advance(at, Below(static_cast<uint32_t>(models_.size())));
      const Name name = at->first;
      if (what < 40) {
        Append(name);
      } else if (what < 72) {
        Digest(name);
      } else if (what < 82) {
        Truncate(name);
      } else if (what < 94) {
        Fork(name);
      } else {
        Drop(name);
      }
    }
    const bool write = Below(3) == 0;
    if (write) table_->WriteNotes();
    moments_.emplace_back(journal_.position(), models_);
    if (write) written_.push_back(moments_.size() - 1);
  }

  static constexpr page::Geometry kShape{kLayers, 1, 1, 32, 8, page::DType::kBF16};
  std::mt19937_64 random_;
  FakeJournal journal_;
  Models models_;
  std::map<Name, uint32_t> epochs_;
  std::set<uint32_t> epochs_of_past_;
  uint64_t unique_ = 0;
  // Since the last restart: what there was when the journal had got so far.
  std::vector<std::pair<size_t, Models>> moments_;
  std::vector<size_t> written_;  // moments at which nothing was gathered
};

TEST_P(ContextRecoveryModel, ARestartChangesNothing) {
  for (int change = 0; change < 400; ++change) {
    Change();
    if (Below(20) > 0) continue;
    const Models before = models_;
    Restart();
    ASSERT_TRUE(models_ == before) << "after change " << change;
  }
  while (!models_.empty()) Drop(models_.begin()->first);
  EXPECT_EQ(journal_.notes().size(), 1u);  // the epochs
}

// Every context is what it was at one moment, after the last at which all was written.
TEST_P(ContextRecoveryModel, ACrashLosesTheLatestChangesAlone) {
  for (int crash = 0; crash < 25; ++crash) {
    for (uint32_t changes = 1 + Below(40); changes > 0; --changes) Change();
    const auto end = static_cast<uint32_t>(journal_.position() - journal_.synced());
    const size_t position = journal_.synced() + Below(end + 1);
    size_t first = 0;
    for (const size_t moment : written_) {
      if (moments_[moment].first <= position) first = moment;
    }
    size_t last = first;
    while (last + 1 < moments_.size() && moments_[last].first <= position) ++last;
    std::set<Name> names;
    for (size_t i = first; i <= last; ++i) {
      for (const auto& [name, model] : moments_[i].second) names.insert(name);
    }
    const auto moments = moments_;
    Crash(position);
    Restart();
    const auto in = [](const Models& models, const Name& name) {
      const auto it = models.find(name);
      return it == models.end() ? nullptr : &it->second;
    };
    for (const Name& name : names) {
      const Model* found = in(models_, name);
      bool was = false;
      for (size_t i = first; i <= last && !was; ++i) {
        const Model* model = in(moments[i].second, name);
        was = found == nullptr ? model == nullptr : model != nullptr && *found == *model;
      }
      EXPECT_TRUE(was) << name.second << " after crash " << crash;
    }
    for (const auto& [name, model] : models_) EXPECT_TRUE(names.contains(name)) << name.second;
  }
  while (!models_.empty()) Drop(models_.begin()->first);
  EXPECT_EQ(journal_.notes().size(), 1u);
}

// Starts with too little room, changes there, crashes: what had none is there once it has.
TEST_P(ContextRecoveryModel, LimitsThatAreTooSmallLoseNothing) {
  for (int round = 0; round < 30; ++round) {
    for (uint32_t changes = Below(15); changes > 0; --changes) Change();
    const Models before = models_;
    ContextTableOptions options;
    if (Below(2) == 0) options.max_contexts = Below(5);
    if (Below(3) == 0) options.max_blocks = Below(100);
    if (Below(3) == 0) options.max_digest_bytes = Below(60000);
    Restart(options);
    for (const auto& [name, model] : models_) {
      ASSERT_TRUE(before.contains(name));
      ASSERT_TRUE(before.at(name) == model) << name.second << " in round " << round;
    }
    ASSERT_EQ(models_.size() + table_->kept().left, before.size());
    Models after = before;
    for (auto change = Below(4); change > 0; --change) {
      auto at = after.begin();
      std::advance(at, Below(static_cast<uint32_t>(std::max<size_t>(after.size(), 1))));
      if (at == after.end()) break;
      const Name name = at->first;
      if (!models_.contains(name) && Below(2) == 0) {
        const auto opened = table_->Open(Ns(name), name.second, {kShape}, kSession);
        if (!opened.ok()) continue;  // all are in use
        // It may have made room: another one is gone.
        for (auto it = models_.begin(); it != models_.end();) {
          const bool gone = !table_->Get(Ns(it->first), it->first.second).ok();
          if (gone) after.erase(it->first);
          it = gone ? models_.erase(it) : std::next(it);
        }
        models_[name] = after[name] = {};
      } else {
        ASSERT_TRUE(table_->Drop(Ns(name), name.second).ok());
        models_.erase(name);
        after.erase(name);
      }
    }
    if (Below(2) == 0) Crash(journal_.position());
    Restart();
    ASSERT_EQ(table_->kept().left, 0u);
    ASSERT_TRUE(models_ == after) << "round " << round;
  }
  while (!models_.empty()) Drop(models_.begin()->first);
  EXPECT_EQ(journal_.notes().size(), 1u);
}

// What is there is the beginning of what there was, list by list.
TEST_P(ContextRecoveryModel, HolesOnlyCut) {
  for (int hole = 0; hole < 25; ++hole) {
    for (uint32_t changes = 1 + Below(30); changes > 0; --changes) Change();
    const Models before = models_;
    for (const auto& [id, note] : FakeJournal::Notes(journal_.notes())) {
      const auto parsed = ParseNote(note.label, note.payload);
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      if (std::get_if<EpochsNote>(&*parsed) == nullptr && Below(40) == 0) journal_.Lose(id);
    }
    Restart();
    for (const auto& [name, model] : models_) {
      ASSERT_TRUE(before.contains(name)) << name.second;
      EXPECT_TRUE(before.at(name).BeginsWith(model)) << name.second << " after hole " << hole;
    }
  }
  while (!models_.empty()) Drop(models_.begin()->first);
  EXPECT_EQ(journal_.notes().size(), 1u);
}

// Of all that was ever written, erased or not, any part may be there: a context is then the
// beginning of what one of that name was at one moment.
TEST_P(ContextRecoveryModel, AnyPartOfThePastMakesNoMixture) {
  for (int change = 0; change < 200; ++change) Change();
  const auto moments = moments_;
  const auto past = journal_.Past();
  for (int round = 0; round < 20; ++round) {
    FakeJournal part;
    const uint32_t keep = 1 + Below(20);
    for (const auto& [id, note] : past) {
      if (Below(20) < keep) part.BringBack(id, note);
    }
    ContextTableOptions options;
    options.journal = &part;
    auto table = ContextTable::Create(store_.get(), options);
    ASSERT_TRUE(table.ok()) << table.status();
    std::swap(table_, *table);
    epochs_of_past_.clear();
    for (const auto& [name, model] : Look()) {
      const bool was = std::any_of(moments.begin(), moments.end(),
                                   [&, &n = name, &m = model](const auto& moment) {
                                     const auto it = moment.second.find(n);
                                     return it != moment.second.end() && it->second.BeginsWith(m);
                                   });
      EXPECT_TRUE(was) << name.second << " in round " << round << ", keeping " << keep << "/20";
    }
    std::swap(table_, *table);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ContextRecoveryModel, testing::Range(0, 6));

}  // namespace
}  // namespace varve::recall
