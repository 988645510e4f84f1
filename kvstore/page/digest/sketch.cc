#include "kvstore/page/digest/sketch.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "kvstore/page/digest/sketch_math.h"
#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

using sketch_math::kMaxHeadDim;

uint16_t Half(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}

// The bits of a token's last word that belong to a channel.
uint32_t LastWordMask(uint32_t bits, uint32_t head_dim) {
  const uint32_t per_word = 32 / bits;
  const uint32_t code = (1u << bits) - 1;
  uint32_t mask = 0;
  for (uint32_t c = (head_dim - 1) / per_word * per_word; c < head_dim; ++c) {
    mask |= code << sketch_math::Shift(c, bits);
  }
  return mask;
}

bool HeadIsSane(const std::byte* digest, uint32_t tokens, uint32_t words, uint32_t mask) {
  const std::byte* scales = digest + size_t{4} * words * tokens;
  for (uint32_t t = 0; t < tokens; ++t) {
    uint32_t last;
    std::memcpy(&last, digest + size_t{4} * ((words - 1) * tokens + t), sizeof(last));
    if ((last & ~mask) != 0) return false;
    if (Half(scales + 2 * t) >= 0x7f80u) return false;  // infinite, NaN or negative
    if ((Half(scales + 2 * (tokens + t)) & 0x7fffu) >= 0x7f80u) return false;
  }
  return true;
}

// q' of one query head.
void Rotate(const float* query, uint32_t head_dim, float* rotated) {
  std::copy_n(query, head_dim, rotated);
  const uint32_t size = sketch_math::HadamardSize(head_dim);
  for (uint32_t stride = 1; stride < size; stride *= 2) {
    for (uint32_t base = 0; base < head_dim; base += 2 * stride) {
      for (uint32_t i = base; i < base + stride; ++i) {
        sketch_math::QueryButterfly(rotated[i], rotated[i + stride]);
      }
    }
  }
}

void Run(const DigestMatrix& shape, const float* queries, uint32_t group, float scale,
         const SketchRows& rows, const SketchOutput& out, SketchFn fn) {
  const SketchShape sketch{Info(shape.kind).sketch_bits, SketchWords(shape.kind, shape.head_dim),
                           shape.page_tokens};
  SketchQueries integers;
  for (uint32_t g = 0; g < group; g += kSketchHeads) {
    const uint32_t heads = std::min(group - g, kSketchHeads);
    QuantiseQueries(queries + size_t{g} * shape.head_dim, heads, shape.head_dim, scale, integers);
    fn(sketch, integers, heads, rows, {out.log_mass + g * out.stride, out.stride, out.factor});
  }
}

}  // namespace

bool SketchIsSane(DigestKind kind, const std::byte* sketch, const Geometry& g) {
  return HeadIsSane(sketch, g.page_tokens, SketchWords(kind, g.head_dim),
                    LastWordMask(Info(kind).sketch_bits, g.head_dim));
}

void QuantiseQueries(const float* queries, uint32_t heads, uint32_t head_dim, float scale,
                     SketchQueries& out) {
  for (uint32_t h = 0; h < heads; ++h) {
    std::array<float, kMaxHeadDim> rotated;
    Rotate(queries + size_t{h} * head_dim, head_dim, rotated.data());
    float greatest = 0;
    for (uint32_t i = 0; i < head_dim; ++i) greatest = std::max(greatest, std::abs(rotated[i]));
    const float step = sketch_math::QueryStep(greatest);
    std::memset(out.quads[h], 0, sizeof(out.quads[h]));
    int sum = 0;
    for (uint32_t i = 0; i < head_dim; ++i) {
      const int8_t integer = sketch_math::QueryInteger(rotated[i], step);
      out.quads[h][i / 4] |= uint32_t{static_cast<uint8_t>(integer)} << (i % 4 * 8);
      sum += integer;
    }
    out.sum[h] = static_cast<float>(sum);
    out.step[h] = scale * step;
  }
}

void ScoreSketches(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                   float* raw, SketchFn fn) {
  const float root = std::sqrt(static_cast<float>(digests.head_dim));
  const SketchRows rows{digests.rows, digests.row_stride_bytes, nullptr, digests.num_pages};
  Run(digests, queries, group_size, 1.0f / root, rows, {raw, digests.num_pages, root}, fn);
}

void SketchLogMass(DigestKind kind, uint32_t page_tokens, const AttentionShape& shape,
                   const float* queries, std::span<const std::byte* const> rows, float* log_mass) {
  const DigestMatrix matrix{kind, shape.dtype, shape.head_dim, page_tokens, nullptr, 0, 0};
  Run(matrix, queries, shape.group_size, shape.scale, {nullptr, 0, rows.data(), rows.size()},
      {log_mass, rows.size(), 1.0f}, Kernels().sketch_log_mass);
}

void ScoreSketchReference(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                          double* raw) {
  const uint32_t bits = Info(digests.kind).sketch_bits;
  const uint32_t tokens = digests.page_tokens;
  const uint32_t words = SketchWords(digests.kind, digests.head_dim);
  const double root = std::sqrt(static_cast<double>(digests.head_dim));
  std::array<double, kMaxHeadDim> q;
  for (uint32_t g = 0; g < group_size; ++g) {
    std::array<float, kMaxHeadDim> rotated;
    Rotate(queries + size_t{g} * digests.head_dim, digests.head_dim, rotated.data());
    float greatest = 0;
    for (uint32_t i = 0; i < digests.head_dim; ++i) {
      greatest = std::max(greatest, std::abs(rotated[i]));
    }
    const float step = sketch_math::QueryStep(greatest);
    for (uint32_t i = 0; i < digests.head_dim; ++i) {
      q[i] = double{step} * sketch_math::QueryInteger(rotated[i], step);
    }
    for (uint32_t page = 0; page < digests.num_pages; ++page) {
      const std::byte* row = digests.rows + page * digests.row_stride_bytes;
      const std::byte* tail = row + size_t{4} * words * tokens;
      std::array<double, 32> logits;
      double greatest_logit = -INFINITY;
      for (uint32_t t = 0; t < tokens; ++t) {
        const double scale = BF16ToF32(Half(tail + 2 * t));
        const double mean = BF16ToF32(Half(tail + 2 * (tokens + t)));
        double logit = 0;
        for (uint32_t c = 0; c < digests.head_dim; ++c) {
          uint32_t word;
          std::memcpy(&word, row + size_t{4} * (c / (32 / bits) * tokens + t), sizeof(word));
          const int levels = 1 << bits;
          const int code = static_cast<int>(word >> sketch_math::Shift(c, bits)) & (levels - 1);
          logit += q[c] * (mean + scale * (2 * code - (levels - 1)));
        }
        logits[t] = logit / root;
        greatest_logit = std::max(greatest_logit, logits[t]);
      }
      double sum = 0;
      for (uint32_t t = 0; t < tokens; ++t) sum += std::exp(logits[t] - greatest_logit);
      raw[size_t{g} * digests.num_pages + page] = root * (greatest_logit + std::log(sum));
    }
  }
}

}  // namespace varve::page
