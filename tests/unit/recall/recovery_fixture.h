// Contexts over restarts, with a journal in memory.
#pragma once

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kvstore/recall/context_note.h"
#include "tests/unit/recall/fake_journal.h"
#include "tests/unit/recall/recall_fixture.h"

namespace varve::recall {

class ContextRecovery : public RecallTest {
 protected:
  void SetUp() override { Restart(); }
  void TearDown() override { table_.reset(); }  // before its journal
  // A new process: new store, new namespace ids, the same journal.
  void Restart(ContextTableOptions options = {}) {
    options.journal = &journal_;
    options.clock = &clock_;
    Start(options);
  }
  ContextSnapshot Attached(const std::string& id) {
    auto snapshot = table_->Attach(ns_, id, kSession);
    EXPECT_TRUE(snapshot.ok()) << id << ": " << snapshot.status();
    return snapshot.value_or(ContextSnapshot{});
  }
  // Blocks and digests of `id` are those that Build gives `blocks` blocks, and no more.
  void ExpectBuilt(const std::string& id, uint32_t blocks, uint64_t seed = 1) {
    SCOPED_TRACE(id);
    const ContextSnapshot snapshot = Attached(id);
    EXPECT_EQ(snapshot.block_hashes, Hashes(seed, 0, blocks));
    EXPECT_EQ(snapshot.digest_blocks, (std::vector<uint32_t>{blocks, blocks}));
    for (uint32_t l = 0; l < 2; ++l) {
      const auto rows = table_->ReadDigests(ns_, id, snapshot.epoch, l, 0, blocks);
      ASSERT_TRUE(rows.ok()) << rows.status();
      EXPECT_TRUE(*rows == RandomDigests(snapshot.options, seed + 100 * l, 0, blocks)) << l;
    }
  }
  // The note of these rows; 0: none.
  store::NoteId Find(uint32_t layer, uint32_t first) {
    for (const auto& [id, note] : journal_.notes()) {
      const auto parsed = ParseNote(note.label, note.payload);
      const auto* rows = parsed.ok() ? std::get_if<RowsNote>(&*parsed) : nullptr;
      if (rows == nullptr) continue;
      for (const RowsSection& section : rows->sections) {
        if (section.layer == layer && section.first == first) return id;
      }
    }
    ADD_FAILURE() << "no note of layer " << layer << ", block " << first;
    return 0;
  }
  // Blocks and digests, in three notes a list, of 4, 3 and 5 blocks.
  void BuildInThree(const std::string& id) {
    const uint32_t epoch = table_->Open(ns_, id, {SmallGeometry()}, kSession)->epoch;
    for (const auto& [first, blocks] : {std::pair(0u, 4u), {4u, 3u}, {7u, 5u}}) {
      ASSERT_TRUE(table_->Append(ns_, id, first, Hashes(1, first, blocks)).ok());
      table_->WriteNotes();
      for (uint32_t l = 0; l < 2; ++l) {
        ASSERT_TRUE(AddDigests(id, epoch, l, first, blocks).ok());
        table_->WriteNotes();
      }
    }
  }

  FakeJournal journal_;
};

}  // namespace varve::recall
