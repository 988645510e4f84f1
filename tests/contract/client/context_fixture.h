// A context with random pages, stored and digested, and what a recall over it must answer.
#pragma once

#include <string>
#include <vector>

#include "kvstore/page/select.h"
#include "tests/contract/client/fixture.h"

namespace varve::client::testing {

class ContextTest : public ClientTest {
 protected:
  static constexpr uint32_t kBlocks = 24;
  const page::Geometry geometry_{.num_layers = 2,
                                 .num_kv_heads = 2,
                                 .num_query_heads = 4,
                                 .head_dim = 64,
                                 .page_tokens = 8,
                                 .dtype = page::DType::kBF16};

  // Contexts share their store's names within a namespace only.
  static std::string Id() { return "ctx"; }
  static std::string Hash(uint32_t block, uint64_t variant = 0) {
    return RandomBytes(variant * 1000 + block + 1, 32);
  }
  static std::vector<std::string> Hashes(uint32_t first, uint32_t count);
  static page::ObjectKey ObjectKeyOf(uint32_t block, uint32_t layer) {
    return *page::MakeObjectKey(Hash(block), layer);
  }

  // The object (block, layer), made of finite values.
  std::string Object(uint32_t block, uint32_t layer) const;
  // One page of it, or a part.
  std::string Page(uint32_t block, uint32_t layer, uint32_t head, page::Part part) const;
  // Digest rows [block][head] of a layer.
  std::string Digests(uint32_t layer, uint32_t first, uint32_t count,
                      page::DigestKind kind = page::DigestKind::kMinMax) const;
  // [num_query_heads][head_dim]
  std::vector<float> Queries(uint64_t seed) const;
  // Merged scores of all pages for one KV head, by the page library.
  std::vector<float> ExpectedScores(uint32_t layer, uint32_t head,
                                    const std::vector<float>& queries,
                                    page::ScoreMerge merge) const;

  // Leaves the context's epoch in epoch_.
  void OpenAndAppend(uint32_t blocks = kBlocks);
  void PutObjects();
  void SendAllDigests();

  uint32_t epoch_ = 0;
};

}  // namespace varve::client::testing
