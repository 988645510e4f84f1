#include "client/c_api.h"

namespace varve::client {
namespace {
thread_local std::string last_error;
}  // namespace

void SetLastError(std::string text) { last_error = std::move(text); }

absl::StatusOr<page::ObjectKey> ToKey(const varve_key& key) {
  if (key.data == nullptr) return NullError("key.data");
  const auto own = page::ObjectKey::FromBytes({static_cast<const char*>(key.data), key.bytes});
  if (own.has_value()) return *own;
  return absl::InvalidArgumentError(absl::StrCat("a key of ", key.bytes,
                                                 " bytes; allowed: ", page::ObjectKey::kMinBytes,
                                                 " to ", page::ObjectKey::kMaxBytes));
}

absl::StatusOr<std::vector<page::ObjectKey>> ToKeys(const varve_key* keys, size_t count) {
  if (keys == nullptr && count > 0) return NullError("keys");
  std::vector<page::ObjectKey> own;
  own.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    absl::StatusOr<page::ObjectKey> key = ToKey(keys[i]);
    if (!key.ok()) return key.status();
    own.push_back(*key);
  }
  return own;
}

absl::StatusOr<std::vector<Piece>> ToPieces(const varve_piece* pieces, size_t count,
                                            const char* name) {
  if (pieces == nullptr && count > 0) return NullError(name);
  std::vector<Piece> own;
  own.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    if (pieces[i].memory == nullptr) return NullError("piece.memory");
    own.push_back({pieces[i].memory->memory.get(), pieces[i].offset, pieces[i].bytes});
  }
  return own;
}

absl::StatusOr<page::Part> ToPart(varve_part part) {
  if (part < VARVE_PART_KV || part > VARVE_PART_V) {
    return absl::InvalidArgumentError(absl::StrCat(
        "part ", static_cast<int>(part), "; allowed: VARVE_PART_KV, VARVE_PART_K, VARVE_PART_V"));
  }
  return static_cast<page::Part>(part);
}

}  // namespace varve::client

extern "C" const char* varve_last_error(void) { return varve::client::last_error.c_str(); }
