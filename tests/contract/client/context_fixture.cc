#include "tests/contract/client/context_fixture.h"

#include <cstring>
#include <random>

namespace varve::client::testing {

std::vector<std::string> ContextTest::Hashes(uint32_t first, uint32_t count) {
  std::vector<std::string> hashes;
  for (uint32_t i = 0; i < count; ++i) hashes.push_back(Hash(first + i));
  return hashes;
}

std::string ContextTest::Object(uint32_t block, uint32_t layer) const {
  std::mt19937 random(1 + block * 31 + layer);
  std::normal_distribution<float> normal;
  std::string object(geometry_.object_bytes(), '\0');
  for (size_t i = 0; i < object.size(); i += sizeof(uint16_t)) {
    const uint16_t value = page::F32ToBF16(normal(random));
    std::memcpy(object.data() + i, &value, sizeof(value));
  }
  return object;
}

std::string ContextTest::Page(uint32_t block, uint32_t layer, uint32_t head,
                              page::Part part) const {
  const std::string object = Object(block, layer);
  std::string page;
  page::ForEachExtent(
      {geometry_.num_kv_heads, static_cast<uint32_t>(geometry_.part_bytes())}, {part, head, 1},
      [&](page::Extent extent) { page += object.substr(extent.offset, extent.bytes); });
  return page;
}

std::string ContextTest::Digests(uint32_t layer, uint32_t first, uint32_t count,
                                 page::DigestKind kind) const {
  const size_t bytes = page::DigestBytes(kind, geometry_);
  std::string rows;
  for (uint32_t block = first; block < first + count; ++block) {
    for (uint32_t head = 0; head < geometry_.num_kv_heads; ++head) {
      const std::string keys = Page(block, layer, head, page::Part::kK);
      std::string digest(bytes, '\0');
      EXPECT_TRUE(page::BuildDigest(kind, keys.data(), geometry_.page_tokens, geometry_.head_dim,
                                    geometry_.dtype, digest.data()));
      rows += digest;
    }
  }
  return rows;
}

std::vector<float> ContextTest::Queries(uint64_t seed) const {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> queries(size_t{geometry_.num_query_heads} * geometry_.head_dim);
  for (float& value : queries) value = normal(random);
  return queries;
}

std::vector<float> ContextTest::ExpectedScores(uint32_t layer, uint32_t head,
                                               const std::vector<float>& queries,
                                               page::ScoreMerge merge) const {
  const page::DigestKind kind = page::DigestKind::kMinMax;
  const std::string rows = Digests(layer, 0, kBlocks);
  const size_t bytes = page::DigestBytes(kind, geometry_);
  const page::DigestMatrix matrix{
      .kind = kind,
      .dtype = geometry_.dtype,
      .head_dim = geometry_.head_dim,
      .page_tokens = geometry_.page_tokens,
      .rows = reinterpret_cast<const std::byte*>(rows.data()) + head * bytes,
      .row_stride_bytes = bytes * geometry_.num_kv_heads,
      .num_pages = kBlocks};
  const uint32_t group = geometry_.group_size();
  std::vector<float> raw(size_t{group} * kBlocks), scores(kBlocks);
  page::ScorePages(matrix, queries.data() + size_t{head} * group * geometry_.head_dim, group,
                   raw.data());
  page::MergeScores(merge, raw.data(), group, kBlocks, geometry_.head_dim, scores.data());
  return scores;
}

void ContextTest::OpenAndAppend(uint32_t blocks) {
  const auto opened = client().OpenContext(Id(), geometry_, page::DigestKind::kMinMax);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto appended = client().AppendContext(Id(), 0, Hashes(0, blocks));
  ASSERT_TRUE(appended.ok()) << appended.status();
  ASSERT_EQ(appended->num_blocks, blocks);
  epoch_ = appended->epoch;
}

void ContextTest::PutObjects() {
  const size_t bytes = geometry_.object_bytes();
  const auto memory = Allocate(bytes * kBlocks * geometry_.num_layers);
  std::vector<PutItem> items;
  for (uint32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    for (uint32_t block = 0; block < kBlocks; ++block) {
      const size_t offset = items.size() * bytes;
      Fill(*memory, offset, Object(block, layer));
      items.push_back(
          {.key = ObjectKeyOf(block, layer),
           .sources = {{memory.get(), offset, bytes}},
           .layout = {geometry_.num_kv_heads, static_cast<uint32_t>(geometry_.part_bytes())}});
    }
  }
  const auto results = client().Put(items);
  ASSERT_TRUE(results.ok()) << results.status();
  for (const PutResult& result : *results) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.message;
  }
}

void ContextTest::SendAllDigests() {
  for (uint32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    for (const auto& [first, count] : {std::pair(0u, 7u), std::pair(7u, 1u), std::pair(8u, 16u)}) {
      const absl::Status sent = client().SendDigests(Id(), epoch_, layer, first, count,
                                                     Digests(layer, first, count), absl::Now());
      ASSERT_TRUE(sent.ok()) << sent;
    }
  }
}

}  // namespace varve::client::testing
