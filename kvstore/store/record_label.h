// What a record on disk says of itself: the label of an object, or of a note of the journal. Byte
// by byte in docs/page_format.md.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kvstore/page/object_key.h"
#include "kvstore/store/granules.h"
#include "kvstore/store/page_store.h"

namespace varve::store {

struct ObjectLabel {
  std::string ns_name;
  page::ObjectKey key;
  std::string parent;  // the block before its own; empty: none, or not known
  ObjectMeta meta;
  GranuleChecksums checksums;
};

std::string EncodeObjectLabel(std::string_view ns_name, const page::ObjectKey& key,
                              std::string_view parent, const ObjectMeta& meta,
                              const GranuleChecksums& checksums);
struct NoteLabel {
  std::string_view label;
  uint32_t payload_crc32c = 0;
};
std::string EncodeNoteLabel(std::string_view label, uint32_t payload_crc32c);

bool IsObjectLabel(std::string_view label);
bool IsNoteLabel(std::string_view label);
// FAILED_PRECONDITION for a label that another version of this program makes: of another kind, or of
// another version; the message says which, and what is known.
absl::Status CheckLabelKnown(std::string_view label);
// payload_bytes: of the record. FAILED_PRECONDITION as above, and for a codec that is not known;
// DATA_LOSS for what EncodeObjectLabel does not make.
absl::StatusOr<ObjectLabel> ParseObjectLabel(std::string_view label, uint64_t payload_bytes);
// A view into `label`. DATA_LOSS for what EncodeNoteLabel does not make.
absl::StatusOr<NoteLabel> ParseNoteLabel(std::string_view label);

}  // namespace varve::store
