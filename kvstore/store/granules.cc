#include "kvstore/store/granules.h"

#include <algorithm>

#include "kvstore/page/checksum.h"

namespace varve::store {
namespace {

std::span<const std::byte> Granule(std::span<const std::byte> bytes, size_t granule_bytes,
                                   size_t index) {
  const size_t begin = index * granule_bytes;
  return bytes.subspan(begin, std::min(granule_bytes, bytes.size() - begin));
}

}  // namespace

GranuleChecksums ComputeGranules(const page::ObjectLayout& layout,
                                 std::span<const std::byte> bytes) {
  GranuleChecksums result;
  result.granule_bytes = layout.num_kv_heads == 0 ? kOpaqueGranuleBytes : layout.part_bytes;
  const size_t count = (bytes.size() + result.granule_bytes - 1) / result.granule_bytes;
  result.crc32c.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const std::span<const std::byte> granule = Granule(bytes, result.granule_bytes, i);
    const uint32_t crc = page::Crc32c(granule.data(), granule.size());
    result.crc32c.push_back(crc);
    result.whole_crc32c =
        i == 0 ? crc : page::Crc32cCombine(result.whole_crc32c, crc, granule.size());
  }
  return result;
}

std::optional<size_t> FirstCorruptGranule(const GranuleChecksums& checksums,
                                          const page::ObjectLayout& layout,
                                          const page::ObjectRange& range,
                                          std::span<const std::byte> bytes) {
  std::optional<size_t> corrupt;
  const auto check = [&](const page::Extent& extent) {
    const size_t size = checksums.granule_bytes;
    for (size_t i = extent.offset / size; !corrupt && i * size < extent.offset + extent.bytes;
         ++i) {
      const std::span<const std::byte> granule = Granule(bytes, size, i);
      if (page::Crc32c(granule.data(), granule.size()) != checksums.crc32c[i]) corrupt = i;
    }
  };
  if (range.whole()) {
    check(page::Extent{0, bytes.size()});
  } else {
    page::ForEachExtent(layout, range, check);
  }
  return corrupt;
}

}  // namespace varve::store
