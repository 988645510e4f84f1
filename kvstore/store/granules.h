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

// One pass over the bytes.
GranuleChecksums ComputeGranules(const page::ObjectLayout& layout,
                                 std::span<const std::byte> bytes);

// The first granule of the range whose bytes do not match; nothing when all do. The range fits the
// layout (opaque objects: the whole).
std::optional<size_t> FirstCorruptGranule(const GranuleChecksums& checksums,
                                          const page::ObjectLayout& layout,
                                          const page::ObjectRange& range,
                                          std::span<const std::byte> bytes);

}  // namespace varve::store
