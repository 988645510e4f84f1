// The identity codec: a part is stored as it is. Thread-safe.
#pragma once

#include "kvstore/page/codec/codec.h"

namespace varve::page {

class RawCodec final : public Codec {
 public:
  std::string_view name() const override { return "raw"; }
  CodecTraits traits() const override { return {}; }
  size_t Bytes(const Geometry& g) const override { return g.part_bytes(); }
  bool Encode(const Geometry& g, const void* in, std::span<std::byte> out) const override;
  bool Decode(const Geometry& g, std::span<const std::byte> in, void* out) const override;
  double ErrorBound(const Geometry& g, double max_abs) const override;
};

}  // namespace varve::page
