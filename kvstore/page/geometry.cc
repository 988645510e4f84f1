#include "kvstore/page/geometry.h"

#include <bit>
#include <cstdio>

namespace varve::page {

std::optional<std::string> Geometry::Invalid() const {
  auto out_of_range = [](const char* what, uint32_t value, const char* allowed) {
    return std::string(what) + " is " + std::to_string(value) + ", allowed: " + allowed;
  };
  if (num_layers < 1 || num_layers > 1024) return out_of_range("num_layers", num_layers, "1..1024");
  if (num_kv_heads < 1 || num_kv_heads > 256)
    return out_of_range("num_kv_heads", num_kv_heads, "1..256");
  if (num_query_heads < num_kv_heads || num_query_heads > 1024 ||
      num_query_heads % num_kv_heads != 0) {
    return out_of_range("num_query_heads", num_query_heads,
                        "a multiple of num_kv_heads, at most 1024");
  }
  if (head_dim < 32 || head_dim > 256 || head_dim % 8 != 0) {
    return out_of_range("head_dim", head_dim, "a multiple of 8 in 32..256");
  }
  if (page_tokens != 8 && page_tokens != 16 && page_tokens != 32) {
    return out_of_range("page_tokens", page_tokens, "8, 16 or 32");
  }
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
    return out_of_range("dtype", static_cast<uint32_t>(dtype), "f32, f16 or bf16");
  }
  if (rope.has_value()) {
    if (const auto wrong = rope->Invalid(head_dim)) return "rope." + *wrong;
  }
  return std::nullopt;
}

std::string Geometry::ToString() const {
  char text[96];
  std::snprintf(text, sizeof(text), "L%u Hkv%u Hq%u d%u p%u %s", num_layers, num_kv_heads,
                num_query_heads, head_dim, page_tokens, DTypeName(dtype));
  return rope.has_value() ? std::string(text) + " rope(" + rope->ToString() + ")" : text;
}

uint64_t Geometry::Id() const {
  // FNV-1a over the fields in declaration order, little-endian: integers in 4 bytes, numbers in 8.
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&hash](uint64_t field, int bits) {
    for (int shift = 0; shift < bits; shift += 8) {
      hash = (hash ^ ((field >> shift) & 0xffu)) * 0x100000001b3u;
    }
  };
  for (uint32_t field :
       {num_layers, num_kv_heads, head_dim, page_tokens, static_cast<uint32_t>(dtype)}) {
    add(field, 32);
  }
  if (!rope.has_value()) return hash;
  // A zero of either sign is the same number.
  const auto add_number = [&](double value) { add(std::bit_cast<uint64_t>(value + 0.0), 64); };
  add_number(rope->theta);
  add(rope->rotary_dim, 32);
  add(static_cast<uint32_t>(rope->pairing), 32);
  add(static_cast<uint32_t>(rope->scaling), 32);
  add_number(rope->factor);
  add_number(rope->low_freq_factor);
  add_number(rope->high_freq_factor);
  add(rope->original_max_position, 32);
  add(static_cast<uint32_t>(rope->arithmetic.angles), 32);
  add(static_cast<uint32_t>(rope->arithmetic.table), 32);
  add(static_cast<uint32_t>(rope->arithmetic.rotation), 32);
  return hash;
}

bool MayContinue(const Geometry& a, const Geometry& b) {
  Geometry other = b;
  other.num_query_heads = a.num_query_heads;
  if (!a.rope.has_value() || !b.rope.has_value()) other.rope = a.rope;
  return other == a;
}

std::optional<size_t> RangeBytes(const ObjectLayout& layout, const ObjectRange& range) {
  if (layout.num_kv_heads == 0 || range.head_begin >= layout.num_kv_heads) return std::nullopt;
  const uint32_t available = layout.num_kv_heads - range.head_begin;
  const uint32_t count = range.head_count == 0 ? available : range.head_count;
  if (count > available) return std::nullopt;
  return size_t{count} * (range.part == Part::kKV ? 2 : 1) * layout.part_bytes;
}

}  // namespace varve::page
