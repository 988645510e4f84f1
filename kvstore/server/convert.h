// Between wire messages and the types of the rooms below. Parse functions answer INVALID_ARGUMENT
// naming the field, what was wrong and what is allowed. Pure, thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/repeated_field.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/object_key.h"
#include "kvstore/recall/context_table.h"
#include "kvstore/store/page_store.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

absl::StatusOr<page::ObjectKey> ParseKey(const std::string& bytes);
// All keys of a batch, or the first problem with its index. max_items: RESOURCE_EXHAUSTED above.
absl::StatusOr<std::vector<page::ObjectKey>> ParseKeys(
    const google::protobuf::RepeatedPtrField<std::string>& keys, uint32_t max_items);
absl::StatusOr<page::ObjectLayout> ParseLayout(const varve::v1::ObjectLayout& layout);
absl::StatusOr<page::Part> ParsePart(int part);
absl::StatusOr<page::ObjectRange> ParseRange(const varve::v1::ObjectRange& range);
absl::StatusOr<page::Geometry> ParseGeometry(const varve::v1::Geometry& geometry);
absl::StatusOr<page::DigestKind> ParseDigestKind(int kind);
absl::StatusOr<page::ScoreMerge> ParseScoreMerge(int merge);
absl::StatusOr<page::Rerank> ParseRerank(int rerank);
// RESOURCE_EXHAUSTED naming the limit.
absl::Status CheckBatchSize(const char* field, int64_t items, uint32_t max_items);
// 0 means the default; INVALID_ARGUMENT above kMaxListPage.
absl::StatusOr<uint32_t> ParsePageSize(uint32_t page_size);

// As they come: CheckHotPages follows.
std::vector<recall::HotPages> FromProto(
    const google::protobuf::RepeatedPtrField<varve::v1::HotPages>& hot);

varve::v1::Tier ToProto(store::TierId tier);
varve::v1::MissReason ToProto(store::MissReason reason);
void ToProto(const page::ObjectLayout& layout, varve::v1::ObjectLayout* out);
void ToProto(const recall::ContextSnapshot& snapshot, varve::v1::ContextInfo* out);

}  // namespace varve::server
