// A page store, a context table and random digests for the tests of kvstore/recall.
#pragma once

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kvstore/page/rows.h"
#include "kvstore/recall/context_table.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/host_tier.h"
#include "tests/support/commit_now.h"
#include "tests/support/manual_clock.h"

namespace varve::recall {

constexpr uint64_t kSession = 77;

inline page::Geometry SmallGeometry() {
  return {.num_layers = 2,
          .num_kv_heads = 2,
          .num_query_heads = 6,
          .head_dim = 32,
          .page_tokens = 8,
          .dtype = page::DType::kBF16};
}

// Digest rows of `blocks` blocks that pass for digests of some keys: every page's values depend on
// nothing but the seed and its number.
inline std::string RandomDigests(const ContextOptions& options, uint64_t seed, uint32_t first,
                                 uint32_t blocks) {
  const page::Geometry& g = options.geometry;
  const size_t page_bytes = page::DigestBytes(options.digest_kind, g);
  std::string rows(blocks * page::DigestRowBytes(options.digest_kind, g), '\0');
  char* out = rows.data();
  for (uint32_t block = first; block < first + blocks; ++block) {
    std::mt19937_64 random(seed * 1000003 + block);
    std::normal_distribution<float> normal;
    for (uint32_t head = 0; head < g.num_kv_heads; ++head, out += page_bytes) {
      std::vector<float> keys(size_t{g.page_tokens} * g.head_dim);
      for (float& k : keys) k = normal(random);
      std::vector<std::byte> stored(keys.size() * page::DTypeBytes(g.dtype));
      for (size_t i = 0; i < keys.size(); ++i) {
        page::StoreF32(stored.data(), g.dtype, i, keys[i]);
      }
      EXPECT_TRUE(page::BuildDigest(options.digest_kind, stored.data(), g.page_tokens, g.head_dim,
                                    g.dtype, out));
    }
  }
  return rows;
}

inline std::string HashOf(uint64_t seed, uint32_t block) {
  std::string hash = "seed" + std::to_string(seed) + "-block" + std::to_string(block);
  hash.resize(32, '.');
  return hash;
}
inline std::vector<std::string> Hashes(uint64_t seed, uint32_t first, uint32_t blocks) {
  std::vector<std::string> hashes;
  for (uint32_t b = first; b < first + blocks; ++b) hashes.push_back(HashOf(seed, b));
  return hashes;
}

inline std::vector<float> RandomQueries(const page::Geometry& g, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> queries(size_t{g.num_query_heads} * g.head_dim);
  for (float& q : queries) q = normal(random);
  return queries;
}

class RecallTest : public testing::Test {
 protected:
  void SetUp() override { Start({}); }

  void Start(const ContextTableOptions& table_options) {
    table_.reset();
    store_.reset();
    auto tier = tier::HostTier::Create({.capacity_bytes = 4 << 20});
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
    auto store = store::PageStore::Create(tier_.get(), {}, &clock_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    ns_ = *store_->InternNamespace("model");
    auto table = ContextTable::Create(store_.get(), table_options);
    ASSERT_TRUE(table.ok()) << table.status();
    table_ = *std::move(table);
  }

  // A context of `blocks` blocks with digests in every layer; answers its epoch.
  uint32_t Build(const std::string& id, uint32_t blocks,
                 const ContextOptions& options = {SmallGeometry()}, uint64_t seed = 1) {
    const auto opened = table_->Open(ns_, id, options, kSession);
    EXPECT_TRUE(opened.ok()) << opened.status();
    EXPECT_TRUE(table_->Append(ns_, id, 0, Hashes(seed, 0, blocks)).ok());
    for (uint32_t l = 0; l < options.geometry.num_layers; ++l) {
      EXPECT_EQ(AddDigests(id, opened->epoch, l, 0, blocks, options, seed).value_or(0), blocks);
    }
    return opened->epoch;
  }
  absl::StatusOr<uint32_t> AddDigests(const std::string& id, uint32_t epoch, uint32_t layer,
                                      uint32_t first, uint32_t blocks,
                                      const ContextOptions& options = {SmallGeometry()},
                                      uint64_t seed = 1) {
    return table_->AppendDigests(ns_, id, epoch, layer, first, blocks,
                                 RandomDigests(options, seed + 100 * layer, first, blocks));
  }
  // Of the context's present epoch.
  absl::StatusOr<std::string> ReadDigests(const std::string& id, uint32_t layer, uint32_t first,
                                          uint32_t blocks) {
    const auto context = table_->Get(ns_, id);
    if (!context.ok()) return context.status();
    return table_->ReadDigests(ns_, id, context->epoch, layer, first, blocks);
  }
  void StoreObject(const std::string& hash, uint32_t layer, uint64_t bytes = 4096) {
    auto put = store_->Reserve(ns_, *page::MakeObjectKey(hash, layer), {.bytes = bytes});
    ASSERT_TRUE(put.ok()) << put.status();
    std::memset((*put)->memory().data(), 1, bytes);
    ASSERT_TRUE(store::CommitNow(**put, std::nullopt).ok());
  }
  uint64_t PinnedObjects() { return store_->Usage().pinned_bytes / 4096; }

  testing_support::ManualClock clock_;
  std::unique_ptr<tier::HostTier> tier_;
  std::unique_ptr<store::PageStore> store_;
  std::unique_ptr<ContextTable> table_;
  store::NamespaceId ns_ = 0;
};

}  // namespace varve::recall
