#include "kvstore/server/convert.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/server/config.h"

namespace varve::server {

using absl::InvalidArgumentError;
using absl::StrCat;

absl::StatusOr<page::ObjectKey> ParseKey(const std::string& bytes) {
  auto key = page::ObjectKey::FromBytes(bytes);
  if (key.has_value()) return *key;
  return InvalidArgumentError(StrCat("key of ", bytes.size(),
                                     " bytes; allowed: ", page::ObjectKey::kMinBytes, " to ",
                                     page::ObjectKey::kMaxBytes));
}

absl::StatusOr<std::vector<page::ObjectKey>> ParseKeys(
    const google::protobuf::RepeatedPtrField<std::string>& keys, uint32_t max_items) {
  VARVE_RETURN_IF_ERROR(CheckBatchSize("keys", keys.size(), max_items));
  std::vector<page::ObjectKey> parsed;
  parsed.reserve(keys.size());
  for (int i = 0; i < keys.size(); ++i) {
    absl::StatusOr<page::ObjectKey> key = ParseKey(keys[i]);
    if (!key.ok()) return base::Annotate(key.status(), "keys[" + std::to_string(i) + "]");
    parsed.push_back(*key);
  }
  return parsed;
}

absl::StatusOr<page::ObjectLayout> ParseLayout(const varve::v1::ObjectLayout& layout) {
  const page::ObjectLayout parsed{layout.num_kv_heads(), layout.part_bytes()};
  if (layout.num_kv_heads() == 0 && layout.part_bytes() == 0) return parsed;
  if (layout.num_kv_heads() == 0 || layout.num_kv_heads() > 256 || layout.part_bytes() == 0) {
    return InvalidArgumentError(StrCat("layout of ", layout.num_kv_heads(),
                                       " KV heads with parts of ", layout.part_bytes(),
                                       " bytes; allowed: 1 to 256 heads with parts of at least 1 "
                                       "byte, or both 0 for an opaque value"));
  }
  return parsed;
}

absl::StatusOr<page::Part> ParsePart(int part) {
  if (part >= 0 && part <= 2) return static_cast<page::Part>(part);
  return InvalidArgumentError(
      StrCat("part ", part, "; allowed: PART_KV (0), PART_K (1), PART_V (2)"));
}

absl::StatusOr<page::ObjectRange> ParseRange(const varve::v1::ObjectRange& range) {
  page::ObjectRange parsed;
  VARVE_ASSIGN_OR_RETURN(parsed.part, ParsePart(range.part()));
  parsed.head_begin = range.head_begin();
  parsed.head_count = range.head_count();
  return parsed;
}

namespace {

// Unchecked, but for numbers that page's enumerations cannot hold: they are wrong there too.
page::RopeParameters FromProto(const varve::v1::RopeParameters& rope) {
  page::RopeParameters parsed;
  parsed.theta = rope.theta();
  parsed.rotary_dim = rope.rotary_dim();
  parsed.pairing = static_cast<page::RopePairing>(rope.pairing());
  parsed.scaling = static_cast<page::RopeScaling>(rope.scaling());
  parsed.factor = rope.factor();
  parsed.low_freq_factor = rope.low_freq_factor();
  parsed.high_freq_factor = rope.high_freq_factor();
  parsed.original_max_position = rope.original_max_position();
  parsed.arithmetic.angles = static_cast<page::RopeAngles>(rope.angles());
  parsed.arithmetic.table = varve::v1::DType_IsValid(rope.table())
                                ? static_cast<page::DType>(rope.table())
                                : page::DType{};
  parsed.arithmetic.rotation = static_cast<page::RopeRotation>(rope.rotation());
  return parsed;
}

void ToProto(const page::RopeParameters& rope, varve::v1::RopeParameters* out) {
  out->set_theta(rope.theta);
  out->set_rotary_dim(rope.rotary_dim);
  out->set_pairing(static_cast<varve::v1::RopePairing>(rope.pairing));
  out->set_scaling(static_cast<varve::v1::RopeScaling>(rope.scaling));
  out->set_factor(rope.factor);
  out->set_low_freq_factor(rope.low_freq_factor);
  out->set_high_freq_factor(rope.high_freq_factor);
  out->set_original_max_position(rope.original_max_position);
  out->set_angles(static_cast<varve::v1::RopeAngles>(rope.arithmetic.angles));
  out->set_table(static_cast<varve::v1::DType>(rope.arithmetic.table));
  out->set_rotation(static_cast<varve::v1::RopeRotation>(rope.arithmetic.rotation));
}

}  // namespace

absl::StatusOr<page::Geometry> ParseGeometry(const varve::v1::Geometry& geometry) {
  if (geometry.dtype() < 1 || geometry.dtype() > 3) {
    return InvalidArgumentError(StrCat("geometry.dtype ", static_cast<int>(geometry.dtype()),
                                       "; allowed: DTYPE_F32 (1), DTYPE_F16 (2), DTYPE_BF16 (3)"));
  }
  page::Geometry parsed;
  parsed.num_layers = geometry.num_layers();
  parsed.num_kv_heads = geometry.num_kv_heads();
  parsed.num_query_heads = geometry.num_query_heads();
  parsed.head_dim = geometry.head_dim();
  parsed.page_tokens = geometry.page_tokens();
  parsed.dtype = static_cast<page::DType>(geometry.dtype());
  if (geometry.has_rope()) parsed.rope = FromProto(geometry.rope());
  if (const auto wrong = parsed.Invalid()) return InvalidArgumentError("geometry: " + *wrong);
  return parsed;
}

absl::StatusOr<page::DigestKind> ParseDigestKind(int kind) {
  if (kind >= 1 && kind <= 10) return static_cast<page::DigestKind>(kind);
  return InvalidArgumentError(
      StrCat("digest_kind ", kind,
             "; allowed: DIGEST_KIND_MINMAX (1), DIGEST_KIND_BOX_MEAN (2), "
             "DIGEST_KIND_MEAN (3), DIGEST_KIND_SPHERE (4), DIGEST_KIND_SIGN1 (5), "
             "DIGEST_KIND_SIGN2 (6), DIGEST_KIND_SIGN4 (7), DIGEST_KIND_MINMAX_SIGN1 (8), "
             "DIGEST_KIND_MINMAX_SIGN2 (9), DIGEST_KIND_MINMAX_SIGN4 (10)"));
}

absl::StatusOr<page::ScoreMerge> ParseScoreMerge(int merge) {
  if (merge == 0) return page::ScoreMerge::kSoftmaxMean;
  if (merge >= 1 && merge <= 4) return static_cast<page::ScoreMerge>(merge);
  return InvalidArgumentError(
      StrCat("merge ", merge,
             "; allowed: SCORE_MERGE_SOFTMAX_MEAN (1, or 0), SCORE_MERGE_SOFTMAX_MAX (2), "
             "SCORE_MERGE_MAX (3), SCORE_MERGE_MEAN (4)"));
}

absl::StatusOr<page::Rerank> ParseRerank(int rerank) {
  if (rerank >= 0 && rerank <= 2) return static_cast<page::Rerank>(rerank);
  return InvalidArgumentError(
      StrCat("rerank ", rerank, "; allowed: RERANK_NONE (0), RERANK_EXACT (1), RERANK_SKETCH (2)"));
}

absl::Status CheckBatchSize(const char* field, int64_t items, uint32_t max_items) {
  if (items <= max_items) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      StrCat(items, " ", field, " in one batch; sessions.max_batch_items allows ", max_items));
}

absl::StatusOr<uint32_t> ParsePageSize(uint32_t page_size) {
  if (page_size == 0) return kDefaultListPage;
  if (page_size <= kMaxListPage) return page_size;
  return InvalidArgumentError(StrCat("page_size ", page_size, "; allowed: 1 to ", kMaxListPage,
                                     ", or 0 for ", kDefaultListPage));
}

varve::v1::Tier ToProto(store::TierId tier) { return static_cast<varve::v1::Tier>(tier); }
varve::v1::MissReason ToProto(store::MissReason reason) {
  return static_cast<varve::v1::MissReason>(reason);
}

void ToProto(const page::ObjectLayout& layout, varve::v1::ObjectLayout* out) {
  out->set_num_kv_heads(layout.num_kv_heads);
  out->set_part_bytes(layout.part_bytes);
}

std::vector<recall::HotPages> FromProto(
    const google::protobuf::RepeatedPtrField<varve::v1::HotPages>& hot) {
  std::vector<recall::HotPages> pages;
  pages.reserve(hot.size());
  for (const varve::v1::HotPages& entry : hot) {
    pages.push_back({entry.layer(),
                     entry.kv_head(),
                     {entry.attended().begin(), entry.attended().end()},
                     {entry.others().begin(), entry.others().end()}});
  }
  return pages;
}

void ToProto(const recall::ContextSnapshot& snapshot, varve::v1::ContextInfo* out) {
  out->set_context_id(snapshot.context_id);
  out->set_state(snapshot.attached_sessions > 0 ? varve::v1::CONTEXT_STATE_ATTACHED
                                                : varve::v1::CONTEXT_STATE_PARKED);
  const page::Geometry& g = snapshot.options.geometry;
  out->mutable_geometry()->set_num_layers(g.num_layers);
  out->mutable_geometry()->set_num_kv_heads(g.num_kv_heads);
  out->mutable_geometry()->set_num_query_heads(g.num_query_heads);
  out->mutable_geometry()->set_head_dim(g.head_dim);
  out->mutable_geometry()->set_page_tokens(g.page_tokens);
  out->mutable_geometry()->set_dtype(static_cast<varve::v1::DType>(g.dtype));
  if (g.rope.has_value()) ToProto(*g.rope, out->mutable_geometry()->mutable_rope());
  out->set_digest_kind(static_cast<varve::v1::DigestKind>(snapshot.options.digest_kind));
  out->set_num_blocks(snapshot.num_blocks);
  out->set_epoch(snapshot.epoch);
  out->set_digest_bytes(snapshot.digest_bytes);
  out->mutable_digest_blocks()->Add(snapshot.digest_blocks.begin(), snapshot.digest_blocks.end());
  for (const std::string& hash : snapshot.block_hashes) out->add_block_hashes(hash);
  out->set_attached_sessions(snapshot.attached_sessions);
  for (const recall::HotPages& entry : snapshot.hot) {
    varve::v1::HotPages* hot = out->add_hot();
    hot->set_layer(entry.layer);
    hot->set_kv_head(entry.kv_head);
    hot->mutable_attended()->Add(entry.attended.begin(), entry.attended.end());
    hot->mutable_others()->Add(entry.others.begin(), entry.others.end());
  }
}

}  // namespace varve::server
