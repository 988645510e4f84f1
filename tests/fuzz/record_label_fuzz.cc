// Labels of records on disk: what parses is the same when it is encoded again.
#include "kvstore/store/record_label.h"

#include <cstring>

#include "tests/fuzz/fuzz.h"

namespace varve::fuzz {
namespace {

using namespace varve::store;

std::string ObjectSeed(const std::string& ns, const std::string& key, const ObjectMeta& meta,
                       const std::string& parent = "") {
  GranuleChecksums checksums;
  checksums.granule_bytes = GranuleBytes(meta.layout);
  checksums.crc32c.resize((meta.bytes + checksums.granule_bytes - 1) / checksums.granule_bytes, 77);
  checksums.whole_crc32c = 99;
  return EncodeObjectLabel(ns, *page::ObjectKey::FromBytes(key), parent, meta, checksums);
}

void CheckObject(std::string_view label) {
  // The record's payload is as long as the label says; another length must be refused.
  uint64_t bytes = 0;
  if (label.size() >= 16) std::memcpy(&bytes, label.data() + 8, sizeof(bytes));
  const absl::StatusOr<ObjectLabel> object = ParseObjectLabel(label, bytes);
  Require(!ParseObjectLabel(label, bytes + 1).ok(), "a label fits two lengths");
  if (!object.ok()) return;
  Require(IsObjectLabel(label), "no mark of an object");
  Require(object->meta.bytes == bytes, "another length");
  Require(EncodeObjectLabel(object->ns_name, object->key, object->parent, object->meta,
                            object->checksums) == label,
          "an object's label is another one when encoded again");
}

void CheckNote(std::string_view label) {
  const absl::StatusOr<NoteLabel> note = ParseNoteLabel(label);
  if (!note.ok()) return;
  Require(IsNoteLabel(label), "no mark of a note");
  Require(EncodeNoteLabel(note->label, note->payload_crc32c) == label,
          "a note's label is another one when encoded again");
}

}  // namespace

std::vector<std::string> Seeds() {
  return {ObjectSeed("default", "key-1", {.bytes = 100}),
          ObjectSeed("", "block-hash-0001", {.bytes = 4096, .layout = {4, 512}, .tokens = 32},
                     "block-hash-"),
          ObjectSeed("default", "block-hash-0001", {.bytes = 100}, std::string(59, 'p')),
          ObjectSeed(std::string(512, 'n'), std::string(63, 'k'), {.bytes = 300000}),
          EncodeNoteLabel("a note", 7),
          EncodeNoteLabel("", 0)};
}

}  // namespace varve::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view label(reinterpret_cast<const char*>(data), size);
  varve::fuzz::CheckObject(label);
  varve::fuzz::CheckNote(label);
  return 0;
}
