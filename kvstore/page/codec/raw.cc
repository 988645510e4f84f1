#include "kvstore/page/codec/raw.h"

#include <cstring>

#include "kvstore/page/rows.h"

namespace varve::page {

bool RawCodec::Encode(const Geometry& g, const void* in, std::span<std::byte> out) const {
  if (out.size() != Bytes(g)) return false;
  if (HasNaN(in, size_t{g.page_tokens} * g.head_dim, g.dtype)) return false;
  std::memcpy(out.data(), in, out.size());
  return true;
}

bool RawCodec::Decode(const Geometry& g, std::span<const std::byte> in, void* out) const {
  if (in.size() != Bytes(g)) return false;
  std::memcpy(out, in.data(), in.size());
  return true;
}

double RawCodec::ErrorBound(const Geometry&, double) const { return 0; }

}  // namespace varve::page
