// Page digests: a fixed-size summary of a page's keys by which a query scores the page (specs:
// ArkVale, Quest, ShadowKV).
//
// A digest of one page and one KV head is one or two vectors of head_dim elements in the geometry's
// dtype, and for SPHERE a radius:
//   MINMAX    [hi | lo]  per-channel max and min of the keys (Quest). score is an upper bound of
//   every q.k of the page. BOX_MEAN  [hi | lo]  c +- h, c = (max+min)/2, h = mean |k - c|
//   (ArkVale). No bound. MEAN      [mean]     mean key (ShadowKV landmark). score is a lower bound
//   of max q.k. SPHERE    [c | r]    c = (max+min)/2, r = max |k - c| (ArkVale, the sphere with its
//   greatest radius). score is an
//                        upper bound; neither it nor MINMAX is always the tighter one. r takes
//                        kRadiusElements elements: r / kRadiusScale rounded up, then zeros.
// The digest matrix of a (layer, KV head) is rows of pages; a digest row of a (layer, block) is all
// KV heads side by side: [kv head][hi | lo].
//
// Rounding: min and max are exact in every dtype; -0 is stored as +0. BOX_MEAN and MEAN accumulate
// in fp32 in token order and round once, to nearest even. SPHERE measures from the centre as it is
// stored, in fp64. So building token by token (DigestBuilder) gives the same bits as BuildDigest,
// and the CPU and CUDA twins give the same bits. Standard library only; not thread-safe per object;
// no function throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kvstore/page/geometry.h"

namespace varve::page {

enum class DigestKind : uint8_t { kMinMax = 1, kBoxMean = 2, kMean = 3, kSphere = 4 };

// What keeps rows whole in the vectors of the kernels, and the greatest radius (16 times the
// greatest key) in the dtype.
constexpr uint32_t kRadiusElements = 8;
constexpr float kRadiusScale = 32.0f;

struct DigestKindInfo {
  DigestKind kind;
  std::string_view name;  // "minmax", "box_mean", "mean", "sphere"
  uint32_t vectors;       // of head_dim elements each
  uint32_t tail;          // elements after them
  bool is_upper_bound;    // of max q.k over the page's keys
  bool is_lower_bound;
  std::string_view source;
};

// All kinds, in enum order.
std::span<const DigestKindInfo> DigestKinds();
const DigestKindInfo& Info(DigestKind kind);
// Nothing when no kind has that name.
std::optional<DigestKind> DigestKindByName(std::string_view name);

// Elements of one page and KV head: a multiple of 8.
inline uint32_t DigestElements(DigestKind kind, uint32_t head_dim) {
  return Info(kind).vectors * head_dim + Info(kind).tail;
}
// Bytes of one page and KV head.
inline size_t DigestBytes(DigestKind kind, uint32_t head_dim, DType dtype) {
  return size_t{DigestElements(kind, head_dim)} * DTypeBytes(dtype);
}
// Bytes of one (layer, block): all KV heads.
inline size_t DigestRowBytes(DigestKind kind, const Geometry& g) {
  return g.num_kv_heads * DigestBytes(kind, g.head_dim, g.dtype);
}

// Builds the digest of `tokens` keys laid out [token][head_dim] of `dtype` into out (DigestBytes).
// False, with out untouched, when tokens == 0 or any key is NaN or infinite.
bool BuildDigest(DigestKind kind, const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                 void* out);

// The same, fed in any split of the tokens. BOX_MEAN and SPHERE need two passes, so the builder
// keeps a reference to nothing and is completed from the page's keys in Finish.
class DigestBuilder {
 public:
  DigestBuilder(DigestKind kind, uint32_t head_dim, DType dtype);
  // Adds keys [tokens][head_dim]; false, nothing added, when one is NaN or infinite.
  bool Append(const void* keys, uint32_t tokens);
  uint32_t tokens() const { return tokens_; }
  // Writes the digest of everything appended. `all_keys` are those same keys, contiguous. False
  // when empty.
  bool Finish(const void* all_keys, void* out) const;
  void Reset();

 private:
  DigestKind kind_;
  uint32_t head_dim_;
  DType dtype_;
  uint32_t tokens_ = 0;
  std::vector<float> hi_, lo_, sum_;
};

// MINMAX of the union of two pages, from their digests (hierarchies; parent score >= child score).
void MergeMinMax(const void* a, const void* b, uint32_t head_dim, DType dtype, void* out);

// True when the digest row holds no NaN, no infinity, for kinds with two vectors hi >= lo in every
// channel, and for SPHERE no negative radius and nothing behind it.
bool DigestRowIsSane(DigestKind kind, const void* row, const Geometry& g);

}  // namespace varve::page
