// Content-hash names: the hash of a block and the key of an object.
//
// A block hash is a chained hash over all tokens up to and including the block, so equal hashes
// mean equal prefixes. Varve's own chain is SHA-256 (base/hash.h); engines may bring any hash of
// their own. An object key is the block hash followed by a 4-byte big-endian layer index; to the
// store it is opaque.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace varve::page {

// Opaque bytes, kMinBytes..kMaxBytes long, held inline. A default-constructed key is empty and
// names nothing.
class ObjectKey {
 public:
  static constexpr size_t kMinBytes = 4;
  static constexpr size_t kMaxBytes = 63;

  ObjectKey() = default;
  // Nothing when the length is out of range.
  static std::optional<ObjectKey> FromBytes(std::string_view bytes) {
    if (bytes.size() < kMinBytes || bytes.size() > kMaxBytes) return std::nullopt;
    ObjectKey key;
    key.size_ = static_cast<uint8_t>(bytes.size());
    std::memcpy(key.bytes_.data(), bytes.data(), bytes.size());
    return key;
  }

  std::string_view bytes() const { return {bytes_.data(), size_}; }
  std::string ToHex() const;
  static std::optional<ObjectKey> FromHex(std::string_view hex);

  friend bool operator==(const ObjectKey& a, const ObjectKey& b) { return a.bytes() == b.bytes(); }
  friend auto operator<=>(const ObjectKey& a, const ObjectKey& b) {
    return a.bytes() <=> b.bytes();
  }

  template <typename H>
  friend H AbslHashValue(H h, const ObjectKey& k) {
    return H::combine(H::combine_contiguous(std::move(h), k.bytes_.data(), k.size_), k.size_);
  }

 private:
  uint8_t size_ = 0;
  std::array<char, kMaxBytes> bytes_{};
};

// A block hash as an engine hands it over: 4 .. ObjectKey::kMaxBytes - 4 bytes.
using BlockHash = std::string;
constexpr size_t kMaxBlockHashBytes = ObjectKey::kMaxBytes - 4;

// Key of the object (block, layer); nothing when the hash's length is out of range.
std::optional<ObjectKey> MakeObjectKey(std::string_view block_hash, uint32_t layer);

}  // namespace varve::page
