#include "kvstore/recall/context_note.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::recall {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr char kMagic[4] = {'V', 'C', 'T', 'X'};
constexpr uint16_t kVersion = 2;
constexpr uint16_t kVersionWithRope = 3;  // of a context note; programs of before refuse it
constexpr uint32_t kMaxLayers = 1024;

enum class NoteKind : uint16_t { kContext = 1, kRows = 2, kEpochs = 3 };

struct Header {
  char magic[4];
  uint16_t version;
  uint16_t kind;
};
static_assert(sizeof(Header) == 8);

// Followed by a RopeLabel in the version that has one, the namespace's name and the id.
struct ContextLabel {
  Header header;
  uint32_t num_layers;
  uint32_t num_kv_heads;
  uint32_t num_query_heads;
  uint32_t head_dim;
  uint32_t page_tokens;
  uint16_t dtype;
  uint16_t digest_kind;
  uint32_t namespace_bytes;
  uint32_t id_bytes;
};
static_assert(sizeof(ContextLabel) == 40);

struct RopeLabel {
  double theta;
  double factor;
  double low_freq_factor;
  double high_freq_factor;
  uint32_t rotary_dim;
  uint32_t original_max_position;
  uint16_t pairing;
  uint16_t scaling;
  uint16_t angles;
  uint16_t table;
  uint16_t rotation;
  uint16_t zeros[3];
};
static_assert(sizeof(RopeLabel) == 56);

struct InheritedEntry {
  uint64_t under;
  uint64_t last;
  uint32_t blocks;
  uint32_t zero;
};
static_assert(sizeof(InheritedEntry) == 24);

struct RowsLabel {
  Header header;
  uint64_t under;
  uint32_t sections;
  uint32_t zero;
};
static_assert(sizeof(RowsLabel) == 24);

struct SectionEntry {
  uint32_t layer;
  uint32_t first;
  uint32_t count;
  uint32_t row_bytes;
};
static_assert(sizeof(SectionEntry) == 16);

struct EpochsLabel {
  Header header;
  uint32_t end;
  uint32_t zero;
};
static_assert(sizeof(EpochsLabel) == 16);

Header MakeHeader(NoteKind kind) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.kind = static_cast<uint16_t>(kind);
  return header;
}

template <typename Block>
std::string Bytes(const Block& block) {
  return {reinterpret_cast<const char*>(&block), sizeof(block)};
}

// REQUIRES: they are there.
template <typename Block>
Block Load(std::string_view bytes) {
  Block block;
  std::memcpy(&block, bytes.data(), sizeof(block));
  return block;
}

absl::Status Damaged(const char* what) {
  return absl::DataLossError(absl::StrCat("a note of contexts is damaged: ", what));
}

absl::StatusOr<std::vector<Inherited>> ParseInherited(std::string_view payload) {
  if (payload.size() % sizeof(InheritedEntry) != 0) return Damaged("its size");
  std::vector<Inherited> inherited;
  inherited.reserve(payload.size() / sizeof(InheritedEntry));
  store::NoteId before = 0;
  for (; !payload.empty(); payload.remove_prefix(sizeof(InheritedEntry))) {
    const auto entry = Load<InheritedEntry>(payload);
    if (entry.under <= before || entry.last < entry.under || entry.blocks == 0 ||
        entry.blocks > kMaxBlocks || entry.zero != 0) {
      return Damaged("what it inherits");
    }
    before = entry.under;
    inherited.push_back({entry.under, entry.last, entry.blocks});
  }
  return inherited;
}

RopeLabel MakeLabel(const page::RopeParameters& rope) {
  RopeLabel label{};
  label.theta = rope.theta;
  label.factor = rope.factor;
  label.low_freq_factor = rope.low_freq_factor;
  label.high_freq_factor = rope.high_freq_factor;
  label.rotary_dim = rope.rotary_dim;
  label.original_max_position = rope.original_max_position;
  label.pairing = static_cast<uint16_t>(rope.pairing);
  label.scaling = static_cast<uint16_t>(rope.scaling);
  label.angles = static_cast<uint16_t>(rope.arithmetic.angles);
  label.table = static_cast<uint16_t>(rope.arithmetic.table);
  label.rotation = static_cast<uint16_t>(rope.arithmetic.rotation);
  return label;
}

// Takes it from the beginning of `label`.
absl::StatusOr<page::RopeParameters> ParseRope(std::string_view& label) {
  if (label.size() < sizeof(RopeLabel)) return Damaged("its size");
  const auto found = Load<RopeLabel>(label);
  label.remove_prefix(sizeof(RopeLabel));
  page::RopeParameters rope;
  rope.theta = found.theta;
  rope.factor = found.factor;
  rope.low_freq_factor = found.low_freq_factor;
  rope.high_freq_factor = found.high_freq_factor;
  rope.rotary_dim = found.rotary_dim;
  rope.original_max_position = found.original_max_position;
  rope.pairing = static_cast<page::RopePairing>(found.pairing);
  rope.scaling = static_cast<page::RopeScaling>(found.scaling);
  rope.arithmetic.angles = static_cast<page::RopeAngles>(found.angles);
  rope.arithmetic.table = static_cast<page::DType>(found.table);
  rope.arithmetic.rotation = static_cast<page::RopeRotation>(found.rotation);
  const bool zeros = std::all_of(std::begin(found.zeros), std::end(found.zeros),
                                 [](uint16_t zero) { return zero == 0; });
  // The enumeration is narrower than the field.
  if (static_cast<uint16_t>(rope.arithmetic.table) != found.table || !zeros) {
    return Damaged("its RoPE parameters");
  }
  return rope;
}

absl::StatusOr<ParsedNote> ParseContext(std::string_view label,
                                        std::optional<std::string_view> payload) {
  if (label.size() < sizeof(ContextLabel)) return Damaged("its size");
  const auto found = Load<ContextLabel>(label);
  label.remove_prefix(sizeof(ContextLabel));
  std::optional<page::RopeParameters> rope;
  if (found.header.version == kVersionWithRope) {
    VARVE_ASSIGN_OR_RETURN(rope, ParseRope(label));
  }
  if (label.size() != uint64_t{found.namespace_bytes} + found.id_bytes) return Damaged("its size");
  ContextNote note;
  note.namespace_name = label.substr(0, found.namespace_bytes);
  note.id = label.substr(found.namespace_bytes);
  note.options.geometry = {found.num_layers,      found.num_kv_heads,
                           found.num_query_heads, found.head_dim,
                           found.page_tokens,     static_cast<page::DType>(found.dtype),
                           std::move(rope)};
  note.options.digest_kind = static_cast<page::DigestKind>(found.digest_kind);
  // The enumerations are narrower than the fields.
  if (static_cast<uint16_t>(note.options.geometry.dtype) != found.dtype ||
      static_cast<uint16_t>(note.options.digest_kind) != found.digest_kind ||
      !CheckContextOptions(note.options).ok()) {
    return Damaged("the shape of the context");
  }
  if (!CheckContextId(note.id).ok()) return Damaged("the context's id");
  if (payload.has_value()) {
    VARVE_ASSIGN_OR_RETURN(note.inherited, ParseInherited(*payload));
  }
  return note;
}

bool IsHashRow(std::string_view row) {
  const size_t bytes = static_cast<uint8_t>(row[0]);
  if (bytes < page::ObjectKey::kMinBytes || bytes > page::kMaxBlockHashBytes) return false;
  const std::string_view rest = row.substr(1 + bytes);
  return std::all_of(rest.begin(), rest.end(), [](char c) { return c == 0; });
}

bool IsInRange(const SectionEntry& entry) {
  const bool blocks = entry.layer == RowsSection::kBlocks;
  return (blocks ? entry.row_bytes == kBlockRowBytes : entry.layer < kMaxLayers) &&
         entry.row_bytes > 0 && entry.count > 0 && entry.count <= kMaxBlocks &&
         entry.first <= kMaxBlocks - entry.count;
}

absl::Status CheckHashRows(std::string_view rows) {
  for (; !rows.empty(); rows.remove_prefix(kBlockRowBytes)) {
    if (!IsHashRow(rows.substr(0, kBlockRowBytes))) return Damaged("a block's hash");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RowsSection>> ParseSections(uint32_t count, std::string_view payload) {
  std::vector<RowsSection> sections;
  sections.reserve(count);
  const std::string_view entries = payload.substr(0, count * sizeof(SectionEntry));
  std::string_view rows = payload.substr(entries.size());
  if (entries.size() != count * sizeof(SectionEntry)) return Damaged("its size");
  for (uint32_t i = 0; i < count; ++i) {
    const auto entry = Load<SectionEntry>(entries.substr(i * sizeof(SectionEntry)));
    if (!IsInRange(entry)) return Damaged("which rows it has");
    if (i > 0 && entry.layer <= sections.back().layer) return Damaged("the order of its rows");
    const RowsSection section{entry.layer, entry.first, entry.count, entry.row_bytes};
    if (rows.size() < section.bytes()) return Damaged("the size of its rows");
    if (entry.layer == RowsSection::kBlocks) {
      VARVE_RETURN_IF_ERROR(CheckHashRows(rows.substr(0, section.bytes())));
    }
    rows.remove_prefix(section.bytes());
    sections.push_back(section);
  }
  if (!rows.empty()) return Damaged("the size of its rows");
  return sections;
}

absl::StatusOr<ParsedNote> ParseRows(std::string_view label,
                                     std::optional<std::string_view> payload) {
  if (label.size() != sizeof(RowsLabel)) return Damaged("its size");
  const auto found = Load<RowsLabel>(label);
  if (found.under == 0 || found.sections == 0 || found.sections > kMaxLayers + 1 ||
      found.zero != 0) {
    return Damaged("which rows it has");
  }
  RowsNote note{found.under, {}};
  if (payload.has_value()) {
    VARVE_ASSIGN_OR_RETURN(note.sections, ParseSections(found.sections, *payload));
  }
  return note;
}

absl::StatusOr<ParsedNote> ParseEpochs(std::string_view label,
                                       std::optional<std::string_view> payload) {
  if (label.size() != sizeof(EpochsLabel) || !payload.value_or("").empty())
    return Damaged("its size");
  const auto found = Load<EpochsLabel>(label);
  if (found.end == 0 || found.zero != 0) return Damaged("its epochs");
  return EpochsNote{found.end};
}

}  // namespace

std::string EncodeLabel(const ContextNote& note) {
  const page::Geometry& g = note.options.geometry;
  ContextLabel label{MakeHeader(NoteKind::kContext),
                     g.num_layers,
                     g.num_kv_heads,
                     g.num_query_heads,
                     g.head_dim,
                     g.page_tokens,
                     static_cast<uint16_t>(g.dtype),
                     static_cast<uint16_t>(note.options.digest_kind),
                     static_cast<uint32_t>(note.namespace_name.size()),
                     static_cast<uint32_t>(note.id.size())};
  std::string rope;
  if (g.rope.has_value()) {
    label.header.version = kVersionWithRope;
    rope = Bytes(MakeLabel(*g.rope));
  }
  return Bytes(label) + rope + note.namespace_name + note.id;
}

std::string EncodePayload(const std::vector<Inherited>& inherited) {
  std::string payload;
  payload.reserve(inherited.size() * sizeof(InheritedEntry));
  for (const Inherited& from : inherited) {
    payload += Bytes(InheritedEntry{from.under, from.last, from.blocks, 0});
  }
  return payload;
}

std::string EncodeLabel(const RowsNote& note) {
  return Bytes(RowsLabel{MakeHeader(NoteKind::kRows), note.under,
                         static_cast<uint32_t>(note.sections.size()), 0});
}

std::string EncodePayload(const std::vector<RowsSection>& sections) {
  std::string payload;
  for (const RowsSection& section : sections) {
    payload += Bytes(SectionEntry{section.layer, section.first, section.count, section.row_bytes});
  }
  return payload;
}

std::string EncodeLabel(const EpochsNote& note) {
  return Bytes(EpochsLabel{MakeHeader(NoteKind::kEpochs), note.end, 0});
}

absl::StatusOr<ParsedNote> ParseNote(std::string_view label,
                                     std::optional<std::string_view> payload) {
  if (!label.starts_with(std::string_view(kMagic, sizeof(kMagic)))) {
    return absl::NotFoundError("no note of contexts");
  }
  if (label.size() < sizeof(Header)) return Damaged("its size");
  const auto header = Load<Header>(label);
  const bool is_context = static_cast<NoteKind>(header.kind) == NoteKind::kContext;
  if (header.version != kVersion && !(is_context && header.version == kVersionWithRope)) {
    return absl::FailedPreconditionError(
        absl::StrCat("notes of contexts of version ", header.version, "; this program reads ",
                     kVersion, ", and ", kVersionWithRope, " where it has RoPE parameters"));
  }
  switch (static_cast<NoteKind>(header.kind)) {
    case NoteKind::kContext:
      return ParseContext(label, payload);
    case NoteKind::kRows:
      return ParseRows(label, payload);
    case NoteKind::kEpochs:
      return ParseEpochs(label, payload);
  }
  return Damaged("its kind");
}

std::vector<std::string_view> RowsOf(const RowsNote& note, std::string_view payload) {
  payload.remove_prefix(note.sections.size() * sizeof(SectionEntry));
  std::vector<std::string_view> rows;
  for (const RowsSection& section : note.sections) {
    rows.push_back(payload.substr(0, section.bytes()));
    payload.remove_prefix(section.bytes());
  }
  return rows;
}

}  // namespace varve::recall
