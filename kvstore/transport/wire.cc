#include "kvstore/transport/wire.h"

#include <utility>

#include "kvstore/base/hash.h"

namespace varve::transport {
namespace {

// FNV-1a, 64 bits.
uint64_t Checksum(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : bytes) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

}  // namespace

std::string WireWriter::Seal() && {
  Put(Checksum(bytes_));
  return std::move(bytes_);
}

WireReader::WireReader(std::string_view sealed) {
  uint64_t stored = 0;
  if (sealed.size() < sizeof(stored)) {
    ok_ = false;
    return;
  }
  rest_ = sealed.substr(0, sealed.size() - sizeof(stored));
  std::memcpy(&stored, sealed.data() + rest_.size(), sizeof(stored));
  ok_ = stored == Checksum(rest_);
}

std::string_view WireReader::GetString() {
  const auto size = Get<uint32_t>();
  if (!Has(size)) return {};
  const std::string_view text = rest_.substr(0, size);
  rest_.remove_prefix(size);
  return text;
}

uint64_t RandomId() {
  uint64_t id = 0;
  while (id == 0) {
    const std::string bytes = base::RandomBytes(sizeof(id));
    std::memcpy(&id, bytes.data(), sizeof(id));
  }
  return id;
}

}  // namespace varve::transport
