// Little-endian bytes of addresses and descriptors. Every encoded value ends with a checksum, so
// that a damaged one is refused before any of it reaches UCX, which trusts what it unpacks.
//
// Thread-compatible values; no errors: a Reader that runs short turns !ok() and yields zeros.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace varve::transport {

static_assert(std::endian::native == std::endian::little);

class WireWriter {
 public:
  template <typename T>
  void Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  // A 32-bit length and the bytes.
  void PutString(std::string_view text) {
    Put(static_cast<uint32_t>(text.size()));
    bytes_.append(text);
  }
  // Appends the checksum and gives the bytes away.
  std::string Seal() &&;

 private:
  std::string bytes_;
};

class WireReader {
 public:
  // Checks and strips the checksum of sealed bytes; !ok() when it does not match.
  explicit WireReader(std::string_view sealed);

  template <typename T>
  T Get() {
    T value{};
    if (!Has(sizeof(T))) return value;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return value;
  }
  // A view into the sealed bytes.
  std::string_view GetString();

  bool ok() const { return ok_; }
  // Everything was read and nothing was missing.
  bool Finished() const { return ok_ && rest_.empty(); }

 private:
  bool Has(size_t n) {
    ok_ = ok_ && rest_.size() >= n;
    return ok_;
  }

  std::string_view rest_;
  bool ok_ = true;
};

// A random 64-bit value, never 0.
uint64_t RandomId();

}  // namespace varve::transport
