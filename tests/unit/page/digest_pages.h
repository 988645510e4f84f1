// Random pages of keys and their digests.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "tests/unit/page/test_data.h"

namespace varve::page::testing {

using Bytes = std::vector<std::byte>;

struct Page {
  uint32_t tokens;
  uint32_t head_dim;
  DType dtype;
  Bytes keys;
  size_t row_bytes() const { return head_dim * DTypeBytes(dtype); }
};

inline Page RandomPage(Rng& rng) {
  Page page{rng.Between(1, 32), rng.HeadDim(), rng.AnyDType(), {}};
  page.keys = RandomElements(rng, size_t{page.tokens} * page.head_dim, page.dtype);
  return page;
}

inline Bytes Build(DigestKind kind, const Page& page) {
  Bytes out(DigestBytes(kind, page.tokens, page.head_dim, page.dtype));
  EXPECT_TRUE(
      BuildDigest(kind, page.keys.data(), page.tokens, page.head_dim, page.dtype, out.data()));
  return out;
}

inline double Key(const Page& page, uint32_t token, uint32_t i) {
  return LoadAsF32(page.keys.data(), page.dtype, size_t{token} * page.head_dim + i);
}

inline double Score(DigestKind kind, const Page& page, const Bytes& digest,
                    const std::vector<float>& q) {
  double score = 0;
  const DigestMatrix matrix{kind,          page.dtype, page.head_dim, page.tokens, digest.data(),
                            digest.size(), 1};
  ScorePagesReference(matrix, q.data(), 1, &score);
  return score;
}

}  // namespace varve::page::testing
