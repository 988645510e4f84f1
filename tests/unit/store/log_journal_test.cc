// Notes over a log of records, in whatever order the log ends what it was asked for.
#include "kvstore/store/log_journal.h"

#include <map>
#include <random>
#include <string>

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
