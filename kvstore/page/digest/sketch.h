// What the kinds of sketches share inside page: building, checking, and the list of integers that
// stands for a query.
//
// Thread-safe; no allocation; no exceptions. Internal to page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"

namespace varve::page {

// The sketch of finite keys [tokens][head_dim]; out as digest.h says.
void WriteSketch(DigestKind kind, const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                 void* out);
// Of one page and KV head.
bool SketchIsSane(DigestKind kind, const std::byte* sketch, const Geometry& g);

// Query heads that one call of a kernel takes.
constexpr uint32_t kSketchHeads = 16;
// Four channels each: up to 256 channels, of which the words of a sketch hold no more.
constexpr uint32_t kMaxQuads = 64;

// Query heads as integers. A quad has the integers of four neighbouring channels, the first in the
// lowest byte; quads past head_dim are zero.
struct SketchQueries {
  alignas(64) uint32_t quads[kSketchHeads][kMaxQuads];
  float sum[kSketchHeads];   // of the integers
  float step[kSketchHeads];  // what one stands for, times the scale of the logits
};
// bits: of the codes that they are for.
void QuantiseQueries(const float* queries, uint32_t heads, uint32_t head_dim, uint32_t bits,
                     float scale, SketchQueries& out);

// Sketches in a row, or wherever a list says.
struct SketchRows {
  const std::byte* first = nullptr;
  size_t stride = 0;
  const std::byte* const* list = nullptr;
  size_t count = 0;

  const std::byte* row(size_t i) const { return list != nullptr ? list[i] : first + i * stride; }
  const std::byte* row_or_last(size_t i) const { return row(i < count ? i : count - 1); }
};

struct SketchShape {
  uint32_t bits;
  uint32_t words;  // of a token
  uint32_t tokens;
};

// out[h * stride + i] = factor * log sum_t exp(logit_t) of row i and query head h. heads: at most
// kSketchHeads.
struct SketchOutput {
  float* log_mass;
  size_t stride;
  float factor;
};
using SketchFn = void (*)(const SketchShape& shape, const SketchQueries& queries, uint32_t heads,
                          const SketchRows& rows, const SketchOutput& out);

// ScorePages of a sketch by the given kernel.
void ScoreSketches(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                   float* raw, SketchFn fn);

}  // namespace varve::page
