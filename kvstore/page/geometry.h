// Shape of a model's KV cache and of the pages, objects and ranges cut from it.
//
// A page is the KV of one block (page_tokens tokens) for one layer and one KV head, stored as
// [K or V][token][head_dim]. An object is the pages of one (block, layer): [kv head][K or
// V][token][head_dim]. All byte counts are exact, there is no padding. Standard library only.
// Immutable values, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "kvstore/page/dtype.h"
#include "kvstore/page/rope_parameters.h"

namespace varve::page {

struct Geometry {
  uint32_t num_layers = 0;       // 1 .. 1024
  uint32_t num_kv_heads = 0;     // 1 .. 256
  uint32_t num_query_heads = 0;  // a multiple of num_kv_heads, at most 1024
  uint32_t head_dim = 0;         // 32 .. 256, a multiple of 8
  uint32_t page_tokens = 32;     // 8, 16 or 32
  DType dtype = DType::kBF16;    // of keys and values
  // How the keys were turned by their positions; absent: not known.
  std::optional<RopeParameters> rope = std::nullopt;

  friend bool operator==(const Geometry&, const Geometry&) = default;

  uint32_t group_size() const { return num_query_heads / num_kv_heads; }  // G
  // Bytes of one K or V part of a page.
  size_t part_bytes() const { return size_t{page_tokens} * head_dim * DTypeBytes(dtype); }
  size_t page_bytes() const { return 2 * part_bytes(); }
  size_t object_bytes() const { return num_kv_heads * page_bytes(); }
  // One token's K (or V) of one KV head.
  size_t row_bytes() const { return head_dim * DTypeBytes(dtype); }

  // What is wrong and what is allowed, or nothing when the geometry is valid.
  std::optional<std::string> Invalid() const;
  // "L32 Hkv8 Hq32 d128 p32 bf16", and " rope(...)" where that is known.
  std::string ToString() const;
  // 64 bits that differ between geometries whose stored bytes must not be mixed (all fields but
  // num_query_heads). A geometry that does not know its RoPE parameters has another id than one
  // that does.
  uint64_t Id() const;
};

// Whether pages stored by one may be continued by the other: equal in all that Id() is made of.
// RoPE parameters are compared where both know them: an engine that does not say is taken at its
// word.
bool MayContinue(const Geometry& a, const Geometry& b);

enum class Part : uint8_t { kKV = 0, kK = 1, kV = 2 };

// How an object's bytes divide into ranges: [kv head][K or V][part_bytes]. heads == 0: an opaque
// value without ranges.
struct ObjectLayout {
  uint32_t num_kv_heads = 0;
  uint32_t part_bytes = 0;
  friend bool operator==(const ObjectLayout&, const ObjectLayout&) = default;
  size_t object_bytes() const { return size_t{num_kv_heads} * 2 * part_bytes; }
};

// Part and KV heads [head_begin, head_begin + head_count) of an object; head_count 0 means all
// heads. The bytes of a range are packed in object order: [kv head][parts asked for].
struct ObjectRange {
  Part part = Part::kKV;
  uint32_t head_begin = 0;
  uint32_t head_count = 0;
  friend bool operator==(const ObjectRange&, const ObjectRange&) = default;
  bool whole() const { return part == Part::kKV && head_begin == 0 && head_count == 0; }
};

// One contiguous piece of an object.
struct Extent {
  size_t offset = 0;
  size_t bytes = 0;
  friend bool operator==(const Extent&, const Extent&) = default;
};

// Bytes a range selects; nothing when the range does not fit the layout (opaque layouts allow only
// the whole object, whose size they do not know: nothing is returned for them).
std::optional<size_t> RangeBytes(const ObjectLayout& layout, const ObjectRange& range);

// Calls fn(Extent) for each contiguous piece of a valid range, in order, pieces merged where they
// touch.
template <typename Fn>
void ForEachExtent(const ObjectLayout& layout, const ObjectRange& range, Fn&& fn) {
  const size_t part = layout.part_bytes;
  const uint32_t count =
      range.head_count == 0 ? layout.num_kv_heads - range.head_begin : range.head_count;
  if (range.part == Part::kKV) {
    fn(Extent{range.head_begin * 2 * part, count * 2 * part});
    return;
  }
  for (uint32_t h = range.head_begin; h < range.head_begin + count; ++h) {
    fn(Extent{(2 * size_t{h} + (range.part == Part::kV ? 1 : 0)) * part, part});
  }
}

}  // namespace varve::page
