// Notes over a log of records, in whatever order the log ends what it was asked for.
#include "kvstore/store/log_journal.h"

#include <map>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/store/record_label.h"
#include "tests/support/assert_ok.h"
#include "tests/support/fake_record_log.h"

namespace varve::store {
namespace {

// Labels of what a process finds after a crash.
std::vector<std::string> Kept(const tier::FakeRecordLog& log) {
  const auto after = log.AfterCrash();
  std::vector<std::string> labels;
  for (const auto& [id, record] : after->records()) {
    labels.emplace_back(ParseNoteLabel(record.label)->label);
  }
  return labels;
}

using Labels = std::vector<std::string>;

TEST(LogJournal, AnErasureWaitsForWhatWasWrittenBefore) {
  tier::FakeRecordLog log(1 << 20);
  LogJournal journal(&log, {});
  const NoteId old = journal.Write({"old", "rows"});
  log.EndAll();
  EXPECT_EQ(Kept(log), Labels({"old"}));
  journal.Write({"new", "rows"});
  journal.Erase({&old, 1});
  journal.Write({"later", ""});
  ASSERT_EQ(log.pending(), 2u);
  log.End(1);  // the erasure does not wait for it, nor is it enough
  EXPECT_EQ(Kept(log), Labels({"old", "later"}));
  log.End(0);
  EXPECT_EQ(Kept(log), Labels({"old", "new", "later"}));
  ASSERT_EQ(log.pending(), 1u);
  log.EndAll();
  EXPECT_EQ(Kept(log), Labels({"new", "later"}));
  ASSERT_OK(journal.Sync());
}

// A note that fails holds nothing up.
TEST(LogJournal, AnErasureAfterANoteThatWasLost) {
  tier::FakeRecordLog log(1 << 20);
  LogJournal journal(&log, {});
  const NoteId old = journal.Write({"old", ""});
  log.EndAll();
  log.FailAppends(1, absl::UnavailableError("the disk is gone"));
  journal.Write({"new", ""});
  journal.Erase({&old, 1});
  log.EndAll();
  EXPECT_EQ(Kept(log), Labels());
  EXPECT_EQ(journal.lost_notes(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(journal.Sync()));
  ASSERT_OK(journal.Sync());
}

// Each name has a newest note, which erases the one before it. At no moment does a crash leave a
// name without one.
TEST(LogJournal, SomeVersionOfEachNameIsAlwaysThere) {
  std::mt19937_64 random(20261122);
  tier::FakeRecordLog log(1 << 20);
  LogJournal journal(&log, {});
  std::map<std::string, NoteId> newest;
  for (const char* name : {"a", "b", "c"}) newest[name] = journal.Write({name, "0"});
  log.EndAll();
  for (int i = 0; i < 2000; ++i) {
    if (random() % 2 == 0 || log.pending() == 0) {
      auto at = newest.begin();
      std::advance(at, random() % newest.size());
      const NoteId before = at->second;
      at->second = journal.Write({at->first, std::to_string(i)});
      journal.Erase({&before, 1});
    } else {
      log.End(random() % log.pending());
    }
    std::map<std::string, int> versions;
    for (const std::string& name : Kept(log)) ++versions[name];
    ASSERT_EQ(versions.size(), 3u) << "after " << i;
  }
  log.EndAll();
  EXPECT_EQ(Kept(log).size(), 3u);
}

// A note takes two blocks of 4 KiB at least.
TEST(LogJournal, NotesTakeTheirShareAndNoMore) {
  tier::FakeRecordLog log(1 << 20);
  log.EndAtOnce();
  LogJournal journal(&log, {.max_share = 0.25});
  std::vector<NoteId> ids;
  for (int i = 0; i < 32; ++i) ids.push_back(journal.Write({"n", "x"}));
  EXPECT_THAT(ids, testing::Each(testing::Ne(0u)));
  EXPECT_EQ(journal.GetRoom().used_bytes, uint64_t{256} << 10);
  EXPECT_EQ(journal.GetRoom().max_bytes, uint64_t{256} << 10);
  EXPECT_EQ(journal.Write({"n", "x"}), 0u);
  EXPECT_EQ(journal.lost_notes(), 1u);
  EXPECT_NE(journal.Write({.label = "epochs", .payload = "x", .bounded = false}), 0u);
  journal.Erase(std::span(ids).first(2));
  EXPECT_NE(journal.Write({"n", "x"}), 0u);
  EXPECT_EQ(log.records().size(), 32u);
  // Another process counts what it finds.
  LogJournal next(&log, {.max_share = 0.25});
  ASSERT_OK(log.Recover([&next](const tier::RecordLog::Recovered& found) { next.Add(found); }));
  EXPECT_EQ(next.Write({"n", "x"}), 0u);
}

TEST(LogJournal, NotesUnderWayAreBounded) {
  tier::FakeRecordLog log(1 << 20);
  LogJournal journal(&log, {.max_pending_bytes = 16384});
  bool told = false;
  EXPECT_NE(journal.Write({"a", "x"}), 0u);
  EXPECT_NE(
      journal.Write(
          {.label = "b", .payload = "x", .written = [&told](const absl::Status&) { told = true; }}),
      0u);
  EXPECT_EQ(journal.Write({"c", "x"}), 0u);
  log.End(0);
  EXPECT_NE(journal.Write({"d", "x"}), 0u);
  EXPECT_FALSE(told);
  log.EndAll();
  EXPECT_TRUE(told);
  EXPECT_EQ(journal.lost_notes(), 1u);
  EXPECT_EQ(Kept(log), Labels({"a", "b", "d"}));
}

// What is damaged is erased; what cannot be read just now is not.
TEST(LogJournal, DamagedAndUnreadableNotes) {
  tier::FakeRecordLog log(1 << 20);
  log.EndAtOnce();
  LogJournal journal(&log, {});
  const NoteId good = journal.Write({"good", "payload"});
  const NoteId changed = journal.Write({"changed", "payload"});
  const NoteId empty = journal.Write({"empty", ""});
  const NoteId strange = journal.Write({"strange", ""});
  log.records()[changed].payload[3] ^= std::byte{1};
  log.records()[strange].label[1] = 7;
  const auto read = [&log] {
    LogJournal next(&log, {});
    EXPECT_EQ(log.Recover([&next](const tier::RecordLog::Recovered& found) { next.Add(found); }),
              absl::OkStatus());
    std::map<NoteId, std::string> found;
    EXPECT_EQ(next.Recover([&found](NoteId id, std::string_view label,
                                    std::optional<std::string_view> payload) {
      found[id] = std::string(label) + ":" + std::string(payload.value_or("unread"));
    }),
              absl::OkStatus());
    return found;
  };
  log.FailReads(2, absl::DataLossError("EIO"));
  EXPECT_EQ(read(), (std::map<NoteId, std::string>{
                        {good, "good:unread"}, {changed, "changed:unread"}, {empty, "empty:"}}));
  EXPECT_EQ(log.records().size(), 3u);
  EXPECT_EQ(read(), (std::map<NoteId, std::string>{{good, "good:payload"}, {empty, "empty:"}}));
  EXPECT_EQ(log.records().size(), 2u);
}

// The journal goes first; what it still waited for is not erased.
TEST(LogJournal, WhatTheLogEndsAfterTheJournalIsGone) {
  tier::FakeRecordLog log(1 << 20);
  {
    LogJournal journal(&log, {});
    const NoteId old = journal.Write({"old", ""});
    log.EndAll();
    journal.Write({"new", ""});
    journal.Erase({&old, 1});
  }
  log.EndAll();
  EXPECT_EQ(Kept(log), Labels({"old", "new"}));
}

}  // namespace
}  // namespace varve::store
