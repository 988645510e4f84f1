#include "kvstore/page/object_key.h"

namespace varve::page {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string ObjectKey::ToHex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * size_t{size_});
  for (char c : bytes()) {
    const auto byte = static_cast<unsigned char>(c);
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

std::optional<ObjectKey> ObjectKey::FromHex(std::string_view hex) {
  if (hex.size() % 2 != 0 || hex.size() > 2 * kMaxBytes) return std::nullopt;
  char bytes[kMaxBytes];
  for (size_t i = 0; i < hex.size(); i += 2) {
    const int high = HexValue(hex[i]);
    const int low = HexValue(hex[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes[i / 2] = static_cast<char>(high * 16 + low);
  }
  return FromBytes({bytes, hex.size() / 2});
}

std::optional<ObjectKey> MakeObjectKey(std::string_view block_hash, uint32_t layer) {
  if (block_hash.size() < ObjectKey::kMinBytes || block_hash.size() > kMaxBlockHashBytes) {
    return std::nullopt;
  }
  char bytes[ObjectKey::kMaxBytes];
  std::memcpy(bytes, block_hash.data(), block_hash.size());
  for (int i = 0; i < 4; ++i) {
    bytes[block_hash.size() + static_cast<size_t>(i)] = static_cast<char>(layer >> (24 - 8 * i));
  }
  return ObjectKey::FromBytes({bytes, block_hash.size() + 4});
}

}  // namespace varve::page
