#include <array>
#include <cstddef>
#include <cstring>

#include "kvstore/page/digest/sketch.h"
#include "kvstore/page/digest/sketch_math.h"

namespace varve::page {
namespace {

using sketch_math::kMaxHeadDim;
using Channels = std::array<float, kMaxHeadDim>;

template <DType kType>
void Load(const void* keys, size_t first, uint32_t head_dim, Channels& k) {
  for (uint32_t c = 0; c < head_dim; ++c) k[c] = LoadAsF32(keys, kType, first + c);
}

// One stage over all blocks; the stride is a constant so that the loops vectorise.
template <uint32_t kStride>
void Stage(uint32_t head_dim, Channels& k) {
  for (uint32_t base = 0; base < head_dim; base += 2 * kStride) {
    for (uint32_t i = base; i < base + kStride; ++i) {
      sketch_math::KeyButterfly(k[i], k[i + kStride]);
    }
  }
}

void Rotate(uint32_t head_dim, Channels& k) {
  const uint32_t size = sketch_math::HadamardSize(head_dim);
  Stage<1>(head_dim, k);
  Stage<2>(head_dim, k);
  Stage<4>(head_dim, k);
  if (size > 8) Stage<8>(head_dim, k);
  if (size > 16) Stage<16>(head_dim, k);
  if (size > 32) Stage<32>(head_dim, k);
  if (size > 64) Stage<64>(head_dim, k);
  if (size > 128) Stage<128>(head_dim, k);
}

double SumOfFirsts(const Channels& k, uint32_t head_dim) {
  double sum = 0;
  for (uint32_t c = 0; c < head_dim; c += sketch_math::HadamardSize(head_dim)) sum += double{k[c]};
  return sum;
}

template <uint32_t kBits>
uint16_t ScaleOf(const Channels& residual, uint32_t head_dim) {
  double parts[8] = {};
  for (uint32_t c = 0; c < head_dim; c += 8) {
    for (uint32_t j = 0; j < 8; ++j) parts[j] += sketch_math::Spread(residual[c + j], kBits);
  }
  return sketch_math::Scale(sketch_math::SumOfParts(parts), head_dim, kBits);
}

// The words of one token, `tokens` apart.
template <uint32_t kBits>
void WriteCodes(const Channels& residual, uint32_t head_dim, float scale, uint32_t tokens,
                std::byte* words) {
  std::array<uint32_t, kMaxHeadDim> codes;
  for (uint32_t c = 0; c < head_dim; ++c) codes[c] = sketch_math::Code(residual[c], scale, kBits);
  for (uint32_t c = 0; c < head_dim; words += size_t{4} * tokens) {
    uint32_t word = 0;
    for (const uint32_t end = c + 32 / kBits; c < end && c < head_dim; ++c) {
      word |= codes[c] << sketch_math::Shift(c, kBits);
    }
    std::memcpy(words, &word, sizeof(word));
  }
}

template <uint32_t kBits, DType kType>
void WritePage(const void* keys, uint32_t tokens, uint32_t head_dim, void* out) {
  auto* words = static_cast<std::byte*>(out);
  std::byte* scales = words + size_t{4} * ((head_dim * kBits + 31) / 32) * tokens;
  std::byte* means = scales + size_t{2} * tokens;
  for (uint32_t t = 0; t < tokens; ++t) {
    Channels k;
    Load<kType>(keys, size_t{t} * head_dim, head_dim, k);
    const uint16_t mean = sketch_math::Mean(SumOfFirsts(k, head_dim), head_dim);
    Rotate(head_dim, k);
    for (uint32_t c = 0; c < head_dim; ++c) k[c] -= BF16ToF32(mean);
    const uint16_t scale = ScaleOf<kBits>(k, head_dim);
    WriteCodes<kBits>(k, head_dim, BF16ToF32(scale), tokens, words + 4 * t);
    std::memcpy(scales + 2 * t, &scale, sizeof(scale));
    std::memcpy(means + 2 * t, &mean, sizeof(mean));
  }
}

template <uint32_t kBits>
void WritePage(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype, void* out) {
  switch (dtype) {
    case DType::kF32:
      return WritePage<kBits, DType::kF32>(keys, tokens, head_dim, out);
    case DType::kF16:
      return WritePage<kBits, DType::kF16>(keys, tokens, head_dim, out);
    case DType::kBF16:
      return WritePage<kBits, DType::kBF16>(keys, tokens, head_dim, out);
  }
}

}  // namespace

void WriteSketch(DigestKind kind, const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                 void* out) {
  switch (Info(kind).sketch_bits) {
    case 1:
      return WritePage<1>(keys, tokens, head_dim, dtype, out);
    case 2:
      return WritePage<2>(keys, tokens, head_dim, dtype, out);
    default:
      return WritePage<4>(keys, tokens, head_dim, dtype, out);
  }
}

}  // namespace varve::page
