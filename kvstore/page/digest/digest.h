// Page digests: a fixed-size summary of a page's keys by which a query scores the page (specs:
// ArkVale, Quest, ShadowKV).
//
// A digest of one page and one KV head is either one or two vectors of head_dim elements in the
// geometry's dtype, and for SPHERE a radius:
//   - MINMAX [hi | lo]: per-channel max and min of the keys (Quest). score is an upper bound of
//     every q.k of the page.
//   - BOX_MEAN [hi | lo]: c +- h, c = (max+min)/2, h = mean |k - c| (ArkVale). No bound.
//   - MEAN [mean]: mean key (ShadowKV landmark). score is a lower bound of max q.k.
//   - SPHERE [c | r]: c = (max+min)/2, r = max |k - c| (ArkVale, the sphere with its greatest
//     radius). score is an upper bound; neither it nor MINMAX is always the tighter one. r takes
//     kRadiusElements elements: r / kRadiusScale rounded up, then zeros.
// or, for SIGN1, SIGN2 and SIGN4, a sketch of every key in 1, 2 or 4 bits per channel
// (sketch_math.h), which needs the page's tokens and not the dtype:
//   u32 words[W][tokens] (little endian), bf16 scale[tokens], bf16 mean[tokens]
//   W = ceil(head_dim b / 32). Channel c of token t: byte c % 4 of word c / (32 / b), from bit
//   (c % (32 / b)) / 4 * b on. Bits of no channel are zero.
//   Its value: mean + scale (2 code - (2^b - 1)), an approximation of channel c of the key rotated
//   by Hadamard blocks. No bound.
// or, for MINMAX_SIGN1, MINMAX_SIGN2 and MINMAX_SIGN4, both: [hi | lo], by which all pages are
// scored, then the sketch, by which a second stage ranks the best of them (rerank.h).
// The digest matrix of a (layer, KV head) is rows of pages; a digest row of a (layer, block) is all
// KV heads side by side: [kv head][hi | lo].
//
// Rounding: min and max are exact in every dtype; -0 is stored as +0. BOX_MEAN and MEAN accumulate
// in fp32 in token order and round once, to nearest even. SPHERE measures from the centre as it is
// stored, in fp64. SIGN1, SIGN2 and SIGN4: sketch_math.h. So building token by token
// (DigestBuilder) gives the same bits as BuildDigest, and the CPU and CUDA twins give the same
// bits. Standard library only; not thread-safe per object; no function throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kvstore/page/geometry.h"

namespace varve::page {

enum class DigestKind : uint8_t {
  kMinMax = 1,
  kBoxMean = 2,
  kMean = 3,
  kSphere = 4,
  kSign1 = 5,
  kSign2 = 6,
  kSign4 = 7,
  kMinMaxSign1 = 8,
  kMinMaxSign2 = 9,
  kMinMaxSign4 = 10
};

// What keeps rows whole in the vectors of the kernels, and the greatest radius (16 times the
// greatest key) in the dtype.
constexpr uint32_t kRadiusElements = 8;
constexpr float kRadiusScale = 32.0f;

struct DigestKindInfo {
  DigestKind kind;
  // "minmax", "box_mean", "mean", "sphere", "sign1", "sign2", "sign4", "minmax_sign1",
  // "minmax_sign2", "minmax_sign4"
  std::string_view name;
  uint32_t vectors;      // of head_dim elements each
  uint32_t tail;         // elements after them
  uint32_t sketch_bits;  // per channel; 0: no sketch
  bool is_upper_bound;   // of max q.k over the page's keys
  bool is_lower_bound;
  std::string_view source;
};

// All kinds, in enum order.
std::span<const DigestKindInfo> DigestKinds();
const DigestKindInfo& Info(DigestKind kind);
// Nothing when no kind has that name.
std::optional<DigestKind> DigestKindByName(std::string_view name);

// A sketch alone.
inline bool IsSketch(DigestKind kind) { return Info(kind).vectors == 0; }
// A sketch, alone or behind something else.
inline bool HasSketch(DigestKind kind) { return Info(kind).sketch_bits != 0; }
// "sign1, ..., minmax_sign4", for error messages.
std::string_view SketchKindNames();

// Elements of one page and KV head, what is before a sketch: a multiple of 8.
inline uint32_t DigestElements(DigestKind kind, uint32_t head_dim) {
  return Info(kind).vectors * head_dim + Info(kind).tail;
}
// Words of one token of a sketch.
inline uint32_t SketchWords(DigestKind kind, uint32_t head_dim) {
  return (head_dim * Info(kind).sketch_bits + 31) / 32;
}
// Bytes of one page and KV head.
inline size_t DigestBytes(DigestKind kind, uint32_t page_tokens, uint32_t head_dim, DType dtype) {
  const size_t vectors = size_t{DigestElements(kind, head_dim)} * DTypeBytes(dtype);
  if (!HasSketch(kind)) return vectors;
  return vectors + size_t{page_tokens} * (4 * SketchWords(kind, head_dim) + 4);
}
// Where the sketch begins in these bytes.
inline size_t SketchOffset(DigestKind kind, uint32_t head_dim, DType dtype) {
  return size_t{DigestElements(kind, head_dim)} * DTypeBytes(dtype);
}
inline size_t DigestBytes(DigestKind kind, const Geometry& g) {
  return DigestBytes(kind, g.page_tokens, g.head_dim, g.dtype);
}
// Bytes of one (layer, block): all KV heads.
inline size_t DigestRowBytes(DigestKind kind, const Geometry& g) {
  return g.num_kv_heads * DigestBytes(kind, g);
}

// Builds the digest of `tokens` keys laid out [token][head_dim] of `dtype` into out (DigestBytes).
// The tokens of a page that is not full count as its page_tokens. False, with out untouched, when
// tokens == 0 or any key is NaN or infinite.
bool BuildDigest(DigestKind kind, const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                 void* out);

// The same, fed in any split of the tokens. BOX_MEAN and SPHERE need two passes and sketches
// the keys alone, so the builder keeps a reference to nothing and is completed from the page's keys
// in Finish.
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
// channel, for SPHERE no negative radius and nothing behind it, and for sketches no negative scale
// and no bit set that belongs to no channel.
bool DigestRowIsSane(DigestKind kind, const void* row, const Geometry& g);

}  // namespace varve::page
