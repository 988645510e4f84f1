#include "kvstore/store/record_label.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/page/codec/codec.h"

namespace varve::store {
namespace {

constexpr char kObjectMark = 'O';
constexpr char kNoteMark = 'N';
constexpr uint8_t kVersion = 1;

struct ObjectBlock {
  char mark;
  uint8_t version;
  uint8_t key_bytes;
  uint8_t codec_bytes;
  uint16_t namespace_bytes;
  uint8_t parent_bytes;
  uint8_t zero;
  uint64_t value_bytes;
  uint32_t num_kv_heads;
  uint32_t part_bytes;
  uint32_t crc32c;
  uint32_t granules;
  uint32_t prompt_tokens;
  uint32_t tokens;
  int64_t expires_unix_ms;  // 0: never
};
static_assert(sizeof(ObjectBlock) == 48);

absl::Status NoLabel(const char* what) {
  return absl::DataLossError(absl::StrCat("no label of an object: ", what));
}

bool LayoutFits(const page::ObjectLayout& layout, uint64_t bytes) {
  return layout.num_kv_heads == 0 ? layout.part_bytes == 0 : layout.object_bytes() == bytes;
}

}  // namespace

std::string EncodeObjectLabel(std::string_view ns_name, const page::ObjectKey& key,
                              std::string_view parent, const ObjectMeta& meta,
                              const GranuleChecksums& checksums) {
  ObjectBlock block{};
  block.mark = kObjectMark;
  block.version = kVersion;
  block.key_bytes = static_cast<uint8_t>(key.bytes().size());
  block.codec_bytes = static_cast<uint8_t>(meta.codec.size());
  block.namespace_bytes = static_cast<uint16_t>(ns_name.size());
  block.parent_bytes = static_cast<uint8_t>(parent.size());
  block.value_bytes = meta.bytes;
  block.num_kv_heads = meta.layout.num_kv_heads;
  block.part_bytes = meta.layout.part_bytes;
  block.crc32c = checksums.whole_crc32c;
  block.granules = static_cast<uint32_t>(checksums.crc32c.size());
  block.prompt_tokens = meta.prompt_tokens;
  block.tokens = meta.tokens;
  if (meta.expires != absl::InfiniteFuture()) {
    block.expires_unix_ms = std::max<int64_t>(absl::ToUnixMillis(meta.expires), 1);
  }
  std::string label(reinterpret_cast<const char*>(&block), sizeof(block));
  label.append(ns_name);
  label.append(key.bytes());
  label.append(parent);
  label.append(meta.codec);
  label.append(reinterpret_cast<const char*>(checksums.crc32c.data()),
               checksums.crc32c.size() * sizeof(uint32_t));
  return label;
}

std::string EncodeNoteLabel(std::string_view label, uint32_t payload_crc32c) {
  std::string out = {kNoteMark, static_cast<char>(kVersion)};
  out.append(reinterpret_cast<const char*>(&payload_crc32c), sizeof(payload_crc32c));
  out.append(label);
  return out;
}

absl::StatusOr<NoteLabel> ParseNoteLabel(std::string_view label) {
  constexpr size_t kHead = 2 + sizeof(uint32_t);
  if (label.size() < kHead || label[0] != kNoteMark || label[1] != kVersion) {
    return absl::DataLossError("no label of a note");
  }
  NoteLabel note;
  std::memcpy(&note.payload_crc32c, label.data() + 2, sizeof(uint32_t));
  note.label = label.substr(kHead);
  return note;
}

bool IsObjectLabel(std::string_view label) { return !label.empty() && label[0] == kObjectMark; }
bool IsNoteLabel(std::string_view label) { return !label.empty() && label[0] == kNoteMark; }

absl::Status CheckLabelKnown(std::string_view label) {
  if (label.size() < 2) return absl::OkStatus();  // no program's
  if (!IsObjectLabel(label) && !IsNoteLabel(label)) {
    return absl::FailedPreconditionError(
        absl::StrCat("its label begins with byte ", static_cast<uint8_t>(label[0]),
                     "; this program knows objects and notes"));
  }
  const auto version = static_cast<uint8_t>(label[1]);
  if (version == kVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("its label is of version ", version,
                                                    "; this program reads version ", kVersion));
}

absl::StatusOr<ObjectLabel> ParseObjectLabel(std::string_view label, uint64_t payload_bytes) {
  VARVE_RETURN_IF_ERROR(CheckLabelKnown(label));
  ObjectBlock block;
  if (label.size() < sizeof(block)) return NoLabel("too short");
  std::memcpy(&block, label.data(), sizeof(block));
  if (block.mark != kObjectMark) return NoLabel("another mark");
  if (block.zero != 0 || block.expires_unix_ms < 0) return NoLabel("bits that no version has set");
  const size_t names =
      size_t{block.namespace_bytes} + block.key_bytes + block.parent_bytes + block.codec_bytes;
  if (label.size() != sizeof(block) + names + size_t{block.granules} * sizeof(uint32_t)) {
    return NoLabel("lengths that do not add up");
  }
  std::string_view rest = label.substr(sizeof(block));
  const auto take = [&rest](size_t bytes) {
    const std::string_view taken = rest.substr(0, bytes);
    rest.remove_prefix(bytes);
    return taken;
  };
  ObjectLabel object;
  object.ns_name = take(block.namespace_bytes);
  const std::optional<page::ObjectKey> key = page::ObjectKey::FromBytes(take(block.key_bytes));
  if (!key.has_value()) return NoLabel("no key");
  object.key = *key;
  object.parent = take(block.parent_bytes);
  if (!object.parent.empty() && !CanFollow(object.key, object.parent)) return NoLabel("no parent");
  object.meta.codec = take(block.codec_bytes);
  object.meta.bytes = block.value_bytes;
  object.meta.layout = {block.num_kv_heads, block.part_bytes};
  object.meta.prompt_tokens = block.prompt_tokens;
  object.meta.tokens = block.tokens;
  if (block.expires_unix_ms > 0) object.meta.expires = absl::FromUnixMillis(block.expires_unix_ms);
  if (page::CodecByName(object.meta.codec) == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("its codec is '",
                                                      absl::CHexEscape(object.meta.codec),
                                                      "'; this program knows ", page::CodecNames()));
  }
  if (block.value_bytes == 0 || block.value_bytes != payload_bytes ||
      !LayoutFits(object.meta.layout, block.value_bytes)) {
    return NoLabel("a size or layout that is none");
  }
  object.checksums.granule_bytes = GranuleBytes(object.meta.layout);
  object.checksums.whole_crc32c = block.crc32c;
  const size_t granule = object.checksums.granule_bytes;
  if (block.granules != (block.value_bytes + granule - 1) / granule) {
    return NoLabel("another number of checksums than the layout has");
  }
  object.checksums.crc32c.resize(block.granules);
  std::memcpy(object.checksums.crc32c.data(), rest.data(), rest.size());
  return object;
}

}  // namespace varve::store
