#include "kvstore/page/digest/sketch.h"

#include <algorithm>
#include <array>
#include <bit>
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
  const uint32_t size = sketch_math::HadamardSize(head_dim);
  // The strides below 8, at which compilers find no vectors, in registers.
  for (uint32_t base = 0; base < head_dim; base += 8) {
    std::array<float, 8> x;
    std::copy_n(query + base, 8, x.begin());
    for (uint32_t stride = 1; stride < 8; stride *= 2) {
      for (uint32_t i = 0; i < 8; ++i) {
        if ((i & stride) == 0) sketch_math::QueryButterfly(x[i], x[i + stride]);
      }
    }
    std::copy_n(x.begin(), 8, rotated + base);
  }
  for (uint32_t stride = 8; stride < size; stride *= 2) {
    for (uint32_t base = 0; base < head_dim; base += 2 * stride) {
      for (uint32_t i = base; i < base + stride; i += 8) {
        std::array<float, 8> a, b;
        std::copy_n(rotated + i, 8, a.begin());
        std::copy_n(rotated + i + stride, 8, b.begin());
        for (uint32_t k = 0; k < 8; ++k) sketch_math::QueryButterfly(a[k], b[k]);
        std::copy_n(a.begin(), 8, rotated + i);
        std::copy_n(b.begin(), 8, rotated + i + stride);
      }
    }
  }
}

// In eight parts, of which compilers make vectors.
float GreatestOf(const float* values, uint32_t count) {
  std::array<float, 8> parts{};
  for (uint32_t base = 0; base < count; base += 8) {
    for (uint32_t k = 0; k < 8; ++k) parts[k] = std::max(parts[k], std::abs(values[base + k]));
  }
  return *std::max_element(parts.begin(), parts.end());
}

void Run(const DigestMatrix& shape, const float* queries, uint32_t group, float scale,
         const SketchRows& rows, const SketchOutput& out, SketchFn fn) {
  const SketchShape sketch{Info(shape.kind).sketch_bits, SketchWords(shape.kind, shape.head_dim),
                           shape.page_tokens};
  SketchQueries integers;
  for (uint32_t g = 0; g < group; g += kSketchHeads) {
    const uint32_t heads = std::min(group - g, kSketchHeads);
    QuantiseQueries(queries + size_t{g} * shape.head_dim, heads, shape.head_dim, sketch.bits, scale,
                    integers);
    fn(sketch, integers, heads, rows, {out.log_mass + g * out.stride, out.stride, out.factor});
  }
}

}  // namespace

bool SketchIsSane(DigestKind kind, const std::byte* sketch, const Geometry& g) {
  return HeadIsSane(sketch, g.page_tokens, SketchWords(kind, g.head_dim),
                    LastWordMask(Info(kind).sketch_bits, g.head_dim));
}

void QuantiseQueries(const float* queries, uint32_t heads, uint32_t head_dim, uint32_t bits,
                     float scale, SketchQueries& out) {
  for (uint32_t h = 0; h < heads; ++h) {
    std::array<float, kMaxHeadDim> rotated;
    Rotate(queries + size_t{h} * head_dim, head_dim, rotated.data());
    const float step = sketch_math::QueryStep(GreatestOf(rotated.data(), head_dim), bits);
    std::array<int8_t, kMaxHeadDim> integers{};
    int sum = 0;
    for (uint32_t i = 0; i < head_dim; ++i) {
      integers[i] = sketch_math::QueryInteger(rotated[i], step, bits);
      sum += integers[i];
    }
    static_assert(std::endian::native == std::endian::little && sizeof(integers) == 4 * kMaxQuads);
    std::memcpy(out.quads[h], integers.data(), sizeof(integers));
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
    const float step = sketch_math::QueryStep(GreatestOf(rotated.data(), digests.head_dim), bits);
    for (uint32_t i = 0; i < digests.head_dim; ++i) {
      q[i] = double{step} * sketch_math::QueryInteger(rotated[i], step, bits);
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
