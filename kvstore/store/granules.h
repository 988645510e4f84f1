// Checksums of an object's pieces, so that a range is verified without reading the rest.
//
// A granule is one part (K or V) of one head, in object order; of an opaque object 64 KiB, the last
// one shorter. Pure functions, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kvstore/page/geometry.h"

namespace varve::store {

constexpr size_t kOpaqueGranuleBytes = 64 << 10;

struct GranuleChecksums {
  size_t granule_bytes = 0;
  std::vector<uint32_t> crc32c;  // one per granule
  uint32_t whole_crc32c = 0;     // of all bytes, folded from the granules
};

// Computes the checksums of an object, front to back.
class GranuleWriter {
 public:
  // object: where its bytes are or will be.
  GranuleWriter(const page::ObjectLayout& layout, std::span<std::byte> object);
  // Copies the next bytes into the object, in the same pass. REQUIRES: they fit.
  void Append(std::span<const std::byte> bytes);
  // The checksums; what was not appended has been put there by somebody else. Last call.
  GranuleChecksums Finish();

 private:
  // Calls next(at, bytes, crc), which answers the new crc, for pieces of one granule each.
  template <typename Next>
  void Advance(size_t bytes, Next&& next);

  const std::span<std::byte> object_;
  GranuleChecksums checksums_;
  size_t at_ = 0;
  uint32_t crc_ = 0;  // of the bytes of the granule that at_ is in
};

// Copies the extent, which begins and ends with granules, to the pieces in order, and answers the
// first granule whose bytes did not match; what follows it is not copied.
std::optional<size_t> CopyGranules(const GranuleChecksums& checksums, const page::Extent& extent,
                                   std::span<const std::byte> bytes,
                                   std::span<const std::span<std::byte>> to);

// The first granule overlapping the extent whose bytes do not match; nothing when all do. bytes:
// the whole object.
std::optional<size_t> FirstCorruptGranule(const GranuleChecksums& checksums,
                                          const page::Extent& extent,
                                          std::span<const std::byte> bytes);

}  // namespace varve::store
