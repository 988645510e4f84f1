// Checksums of an object's pieces, so that a range is verified without reading the rest.
//
// A granule is one part (K or V) of one head, in object order; of an opaque object 64 KiB, the last
// one shorter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "kvstore/page/checksum.h"
#include "kvstore/page/geometry.h"

namespace varve::store {

constexpr size_t kOpaqueGranuleBytes = 64 << 10;

size_t GranuleBytes(const page::ObjectLayout& layout);

struct GranuleChecksums {
  size_t granule_bytes = 0;
  std::vector<uint32_t> crc32c;  // one per granule
  uint32_t whole_crc32c = 0;     // of all bytes, folded from the granules
};

// Copies pieces of an object and computes the checksums of its granules in the same pass. Used by
// one thread at a time.
class GranuleCopier {
 public:
  GranuleCopier(size_t object_bytes, size_t granule_bytes)
      : object_bytes_(object_bytes), granule_bytes_(granule_bytes) {}

  // The copied bytes are the object's from `offset` on. Pieces in any order; a granule has a
  // checksum when each of its bytes was copied once, front to back.
  void Copy(size_t offset, void* to, const void* from, size_t bytes, page::CopyMode mode);
  std::optional<uint32_t> crc32c(size_t granule) const;
  // Whether all granules have one.
  bool complete() const { return complete_ == num_granules(); }

 private:
  struct Running {
    size_t bytes = 0;
    uint32_t crc32c = 0;
    bool broken = false;  // bytes out of order
  };
  size_t num_granules() const { return (object_bytes_ + granule_bytes_ - 1) / granule_bytes_; }
  size_t BytesOf(size_t granule) const;

  const size_t object_bytes_;
  const size_t granule_bytes_;
  // Empty until the first copy; mostly of one page of 8 heads.
  absl::InlinedVector<Running, 16> running_;
  size_t complete_ = 0;
};

// Checksums of a whole object, which are read where the copier has none.
GranuleChecksums Summarize(std::span<const std::byte> object, size_t granule_bytes,
                           const GranuleCopier& copier);

// The first granule overlapping the extent whose bytes do not match; nothing when all do. bytes:
// the object's from bytes_offset on, all granules of the extent among them; read where the copier
// has no checksum.
std::optional<size_t> FirstCorruptGranule(const GranuleChecksums& checksums,
                                          const page::Extent& extent,
                                          std::span<const std::byte> bytes, size_t bytes_offset,
                                          const GranuleCopier& copier);

}  // namespace varve::store
