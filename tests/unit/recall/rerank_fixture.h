// A context whose keys are stored, for what a selection says by them, and the truth in float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/recall/recall_fixture.h"

namespace varve::recall {

inline constexpr uint32_t kPages = 60;

// A context whose objects are stored and whose digests are those of their keys.
class RerankTest : public RecallTest, public testing::WithParamInterface<page::DType> {
 protected:
  void SetUp() override {
    options_.geometry = SmallGeometry();
    options_.geometry.dtype = GetParam();
  }
  const page::Geometry& g() const { return options_.geometry; }

  void Fill(uint32_t threads = 1) {
    Start({.threads = threads});
    const auto opened = table_->Open(ns_, "c", options_, kSession);
    ASSERT_TRUE(opened.ok()) << opened.status();
    epoch_ = opened->epoch;
    ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, kPages)).ok());
    for (uint32_t layer = 0; layer < g().num_layers; ++layer) {
      std::string rows;
      for (uint32_t page = 0; page < kPages; ++page) {
        const std::vector<std::byte> object = Object(layer, page);
        for (uint32_t h = 0; h < g().num_kv_heads; ++h) {
          std::string digest(page::DigestBytes(options_.digest_kind, g()), 0);
          ASSERT_TRUE(page::BuildDigest(options_.digest_kind,
                                        object.data() + h * 2 * g().part_bytes(), g().page_tokens,
                                        g().head_dim, g().dtype, digest.data()));
          rows += digest;
        }
        Put(layer, page, object);
      }
      ASSERT_TRUE(table_->AppendDigests(ns_, "c", epoch_, layer, 0, kPages, rows).ok());
    }
  }

  // Keys and values of a block, anew at each call, alike at each.
  std::vector<std::byte> Object(uint32_t layer, uint32_t page) const {
    std::mt19937_64 random(layer * 1000 + page);
    std::normal_distribution<float> normal;
    std::vector<std::byte> object(g().object_bytes());
    for (size_t i = 0; i < object.size() / page::DTypeBytes(g().dtype); ++i) {
      page::StoreF32(object.data(), g().dtype, i, normal(random));
    }
    return object;
  }
  page::ObjectKey KeyOf(uint32_t layer, uint32_t page) const {
    return *page::MakeObjectKey(HashOf(1, page), layer);
  }
  void Put(uint32_t layer, uint32_t page, const std::vector<std::byte>& object) {
    auto put =
        store_->Reserve(ns_, KeyOf(layer, page),
                        {.bytes = object.size(),
                         .layout = {g().num_kv_heads, static_cast<uint32_t>(g().part_bytes())}});
    ASSERT_TRUE(put.ok()) << put.status();
    std::memcpy((*put)->memory().data(), object.data(), object.size());
    ASSERT_TRUE(store::CommitNow(**put, std::nullopt).ok());
  }
  void Remove(uint32_t layer, uint32_t page) {
    ASSERT_TRUE(store_->Remove(ns_, KeyOf(layer, page), /*force=*/true));
  }

  // Share of the softmax over the candidates, mean over the query heads of `head`; 0 elsewhere.
  std::vector<double> Masses(uint32_t layer, uint32_t head, const std::vector<float>& q,
                             const std::vector<uint32_t>& candidates) const {
    const uint32_t group = g().group_size();
    std::vector<double> masses(kPages);
    for (uint32_t n = head * group; n < (head + 1) * group; ++n) {
      std::vector<double> own(kPages);
      double sum = 0;
      for (const uint32_t page : candidates) {
        const std::vector<std::byte> object = Object(layer, page);
        const std::byte* keys = object.data() + head * 2 * g().part_bytes();
        for (uint32_t t = 0; t < g().page_tokens; ++t) {
          double dot = 0;
          for (uint32_t i = 0; i < g().head_dim; ++i) {
            dot += double{q[n * g().head_dim + i]} *
                   page::LoadAsF32(keys, g().dtype, t * g().head_dim + i);
          }
          own[page] += std::exp(dot / std::sqrt(g().head_dim));
        }
        sum += own[page];
      }
      for (uint32_t page = 0; page < kPages; ++page) masses[page] += own[page] / sum / group;
    }
    return masses;
  }

  // log sum exp of every page for one query head.
  std::vector<double> LogMasses(uint32_t layer, uint32_t query_head,
                                const std::vector<float>& q) const {
    std::vector<double> masses(kPages);
    for (uint32_t page = 0; page < kPages; ++page) {
      const std::vector<std::byte> object = Object(layer, page);
      const std::byte* keys = object.data() + query_head / g().group_size() * 2 * g().part_bytes();
      double sum = 0;
      for (uint32_t t = 0; t < g().page_tokens; ++t) {
        double dot = 0;
        for (uint32_t i = 0; i < g().head_dim; ++i) {
          dot += double{q[query_head * g().head_dim + i]} *
                 page::LoadAsF32(keys, g().dtype, t * g().head_dim + i);
        }
        sum += std::exp(dot / std::sqrt(g().head_dim));
      }
      masses[page] = std::log(sum);
    }
    return masses;
  }

  std::vector<LayerSelection> Select(const SelectParams& params, const std::vector<float>& q,
                                     uint32_t budget, SelectTimings* timings = nullptr) {
    const std::vector<LayerQuery> layers = {
        {1, q,
         std::vector<HeadQuery>(g().num_kv_heads,
                                HeadQuery{.budget_pages = budget, .resident = {}})},
        {0, q,
         std::vector<HeadQuery>(g().num_kv_heads,
                                HeadQuery{.budget_pages = budget, .resident = {}})}};
    auto selections = table_->Select(ns_, "c", params, layers, timings);
    EXPECT_TRUE(selections.ok()) << selections.status();
    return selections.ok() ? *std::move(selections) : std::vector<LayerSelection>(2);
  }
  // Budget 7, floor 4, ceiling 20.
  std::vector<LayerSelection> SelectAdaptive(const SelectParams& params,
                                             const std::vector<float>& q, uint32_t total) {
    const std::vector<HeadQuery> heads(
        g().num_kv_heads,
        HeadQuery{.budget_pages = 7, .resident = {}, .floor_pages = 4, .ceiling_pages = 20});
    const std::vector<LayerQuery> layers = {{1, q, heads, total}, {0, q, heads, total}};
    auto selections = table_->Select(ns_, "c", params, layers, nullptr);
    EXPECT_TRUE(selections.ok()) << selections.status();
    return selections.ok() ? *std::move(selections) : std::vector<LayerSelection>(2);
  }
  SelectParams Params(page::Rerank rerank, double multiplier) const {
    return {.epoch = epoch_, .sinks = 1, .window = 2, .rerank = rerank, .multiplier = multiplier};
  }

  ContextOptions options_;
  uint32_t epoch_ = 0;
};

}  // namespace varve::recall
