#include "kvstore/page/codec/codec.h"

#include <array>

#include "kvstore/page/codec/raw.h"

namespace varve::page {
namespace {

// One row per codec.
std::span<const Codec* const> Codecs() {
  static const RawCodec raw;
  static const std::array<const Codec*, 1> codecs = {&raw};
  return codecs;
}

}  // namespace

const Codec* CodecByName(std::string_view name) {
  for (const Codec* codec : Codecs()) {
    if (codec->name() == name) return codec;
  }
  return nullptr;
}

std::string CodecNames() {
  std::string names;
  for (const Codec* codec : Codecs()) {
    if (!names.empty()) names += ", ";
    names += codec->name();
  }
  return names;
}

}  // namespace varve::page
