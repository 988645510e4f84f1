// The bytes of the notes that keep contexts over a restart. Pure functions over memory;
// docs/page_format.md has the layout in prose.
//
// A context note says which context there is. Blocks and digest rows are in notes of their own,
// each with some of several lists, written under the context note that was current then; a context
// has those under its own note, and of those under other notes what it inherits: a fork from its
// parent, a truncated context from itself. So one note tells all of a fork or a truncate, and
// nothing has to be replayed in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/recall/context_table.h"
#include "kvstore/store/journal.h"

namespace varve::recall {

constexpr uint32_t kMaxBlocks = 1u << 22;  // of a context
// What one block of a context's list takes, in memory and in a note: its hash's length, the hash,
// zeros.
constexpr size_t kBlockRowBytes = 64;

// Notes under context note `under`, up to the note `last`, count for blocks [0, blocks).
struct Inherited {
  store::NoteId under = 0;
  store::NoteId last = 0;
  uint32_t blocks = 0;
  friend bool operator==(const Inherited&, const Inherited&) = default;
};

struct ContextNote {
  std::string namespace_name;
  std::string id;
  ContextOptions options;
  std::vector<Inherited> inherited;  // ascending `under`
};

// Rows of consecutive blocks: their hashes, or their digests in one layer.
struct RowsSection {
  static constexpr uint32_t kBlocks = UINT32_MAX;
  uint32_t layer = kBlocks;
  uint32_t first = 0;
  uint32_t count = 0;
  uint32_t row_bytes = 0;
  uint64_t bytes() const { return uint64_t{count} * row_bytes; }
  friend bool operator==(const RowsSection&, const RowsSection&) = default;
};

struct RowsNote {
  store::NoteId under = 0;
  std::vector<RowsSection> sections;  // ascending `layer`
  friend bool operator==(const RowsNote&, const RowsNote&) = default;
};

// Epochs below `end` may have been given.
struct EpochsNote {
  uint32_t end = 0;
};

using ParsedNote = std::variant<ContextNote, RowsNote, EpochsNote>;

std::string EncodeLabel(const ContextNote& note);
std::string EncodePayload(const std::vector<Inherited>& inherited);
std::string EncodeLabel(const RowsNote& note);
// The payload's beginning: the rows follow, section by section.
std::string EncodePayload(const std::vector<RowsSection>& sections);
std::string EncodeLabel(const EpochsNote& note);

// NOT_FOUND: a note of somebody else; FAILED_PRECONDITION: of another version; DATA_LOSS: damaged.
// What parses is in range by itself: a valid geometry, sane hashes. Whether digest rows have the
// size and the values of their context's is for the caller to check. payload: none when it cannot
// be read; what a context inherits, and sections, are then left out.
absl::StatusOr<ParsedNote> ParseNote(std::string_view label,
                                     std::optional<std::string_view> payload);
// Of a payload that has parsed: the rows of its sections, in their order.
std::vector<std::string_view> RowsOf(const RowsNote& note, std::string_view payload);

}  // namespace varve::recall
