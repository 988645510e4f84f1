// Codecs: how a page's part is stored. Composable plug-ins; a codec whose bytes change gets a new
// name.
//
// Thread-safe: codecs are immutable. Standard library only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kvstore/page/geometry.h"

namespace varve::page {

struct CodecTraits {
  bool token_movable = true;       // tokens may be reordered or dropped without re-encoding others
  bool needs_query_map = false;    // queries must be transformed before scoring encoded keys
  bool needs_full_prompt = false;  // statistics over the whole prompt are needed to encode
  bool pre_rope = false;           // encodes keys before rotary embedding
  uint32_t seal_tokens = 1;        // encodes multiples of this many tokens
  uint32_t residual_tokens = 0;    // most recent tokens kept exact
};

class Codec {
 public:
  virtual ~Codec() = default;
  virtual std::string_view name() const = 0;
  virtual CodecTraits traits() const = 0;
  // Encoded bytes of one part (K or V) of a page of g.
  virtual size_t Bytes(const Geometry& g) const = 0;
  // in: [token][head_dim] of g.dtype, out: Bytes(g). False when the input cannot be encoded (NaN).
  virtual bool Encode(const Geometry& g, const void* in, std::span<std::byte> out) const = 0;
  // The inverse; false when the bytes are not this codec's.
  virtual bool Decode(const Geometry& g, std::span<const std::byte> in, void* out) const = 0;
  // Greatest |decoded - original| per element for inputs of magnitude at most `max_abs`.
  virtual double ErrorBound(const Geometry& g, double max_abs) const = 0;
};

// Codecs known by name, one row each ("raw"). Nothing when unknown; CodecNames() lists what is
// allowed.
const Codec* CodecByName(std::string_view name);
std::string CodecNames();

}  // namespace varve::page
