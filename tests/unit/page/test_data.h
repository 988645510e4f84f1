// Random pages, queries and digests for the page tests. Every generator has a fixed seed;
// VARVE_SEED names it in the message of a failure.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kvstore/page/attention.h"
#include "kvstore/page/dtype.h"
#include "kvstore/page/geometry.h"

#define VARVE_SEED(seed) SCOPED_TRACE("seed " + std::to_string(seed))

namespace varve::page::testing {

inline const DType kAllDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

class Rng {
 public:
  explicit Rng(uint64_t seed) : engine_(seed) {}

  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(engine_() % n); }
  uint32_t Between(uint32_t low, uint32_t high) { return low + Below(high - low + 1); }
  bool Chance(double p) { return std::uniform_real_distribution<double>(0, 1)(engine_) < p; }
  float Normal() { return std::normal_distribution<float>(0, 1)(engine_); }
  uint64_t Bits() { return engine_(); }
  std::mt19937_64& engine() { return engine_; }

  uint32_t HeadDim() { return 8 * Between(4, 32); }
  DType AnyDType() { return kAllDTypes[Below(3)]; }
  uint32_t PageTokens() { return 8u << Below(3); }

  // Mostly normal, with zeros of both signs, outliers and small values mixed in.
  float Value() {
    switch (Below(12)) {
      case 0:
        return 0.0f;
      case 1:
        return -0.0f;
      case 2:
        return 30.0f * Normal();
      case 3:
        return 1e-4f * Normal();
      default:
        return Normal();
    }
  }

  std::vector<float> Floats(size_t count) {
    std::vector<float> values(count);
    for (float& v : values) v = Value();
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

// Values as bytes of a dtype.
inline std::vector<std::byte> Encode(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * DTypeBytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) StoreF32(bytes.data(), dtype, i, values[i]);
  return bytes;
}

inline std::vector<std::byte> RandomElements(Rng& rng, size_t count, DType dtype) {
  return Encode(rng.Floats(count), dtype);
}

// K and V of a context, page by page; the last page may be partly filled.
struct RandomContext {
  RandomContext(Rng& rng, uint32_t num_pages, uint32_t page_tokens, uint32_t head_dim,
                DType dtype) {
    const size_t elements = size_t{page_tokens} * head_dim;
    for (uint32_t i = 0; i < num_pages; ++i) {
      k.push_back(RandomElements(rng, elements, dtype));
      v.push_back(RandomElements(rng, elements, dtype));
      const bool last = i + 1 == num_pages;
      tokens.push_back(last ? rng.Between(1, page_tokens) : page_tokens);
    }
  }

  PageView View(uint32_t page) const { return {k[page].data(), v[page].data(), tokens[page]}; }
  std::vector<PageView> Views() const {
    std::vector<PageView> views;
    for (uint32_t i = 0; i < k.size(); ++i) views.push_back(View(i));
    return views;
  }

  std::vector<std::vector<std::byte>> k, v;
  std::vector<uint32_t> tokens;
};

}  // namespace varve::page::testing
