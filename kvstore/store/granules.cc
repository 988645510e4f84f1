#include "kvstore/store/granules.h"

#include <algorithm>
#include <utility>

#include "kvstore/page/checksum.h"

namespace varve::store {
namespace {

std::span<const std::byte> Granule(std::span<const std::byte> bytes, size_t granule_bytes,
                                   size_t index) {
  const size_t begin = index * granule_bytes;
  return bytes.subspan(begin, std::min(granule_bytes, bytes.size() - begin));
}

}  // namespace

GranuleWriter::GranuleWriter(const page::ObjectLayout& layout, std::span<std::byte> object)
    : object_(object) {
  const size_t size = layout.num_kv_heads == 0 ? kOpaqueGranuleBytes : layout.part_bytes;
  checksums_.granule_bytes = size;
  checksums_.crc32c.reserve((object.size() + size - 1) / size);
}

template <typename Next>
void GranuleWriter::Advance(size_t bytes, Next&& next) {
  const size_t size = checksums_.granule_bytes;
  for (const size_t end = at_ + bytes; at_ < end;) {
    const size_t n = std::min(size - at_ % size, end - at_);
    crc_ = next(at_, n, crc_);
    at_ += n;
    if (at_ % size != 0 && at_ < object_.size()) continue;
    const size_t granule_bytes = at_ - checksums_.crc32c.size() * size;
    checksums_.whole_crc32c =
        page::Crc32cCombine(checksums_.whole_crc32c, crc_, granule_bytes);
    checksums_.crc32c.push_back(std::exchange(crc_, 0));
  }
}

void GranuleWriter::Append(std::span<const std::byte> bytes) {
  const size_t begin = at_;
  Advance(bytes.size(), [&](size_t at, size_t n, uint32_t crc) {
    return page::CopyWithCrc32c(object_.data() + at, bytes.data() + (at - begin), n, crc,
                                page::CopyMode::kStream);
  });
}

GranuleChecksums GranuleWriter::Finish() {
  Advance(object_.size() - at_, [&](size_t at, size_t n, uint32_t crc) {
    return page::Crc32c(object_.data() + at, n, crc);
  });
  return std::move(checksums_);
}

std::optional<size_t> CopyGranules(const GranuleChecksums& checksums, const page::Extent& extent,
                                   std::span<const std::byte> bytes,
                                   std::span<const std::span<std::byte>> to) {
  const size_t size = checksums.granule_bytes;
  const size_t end = extent.offset + extent.bytes;
  size_t at = extent.offset;
  uint32_t crc = 0;
  for (std::span<std::byte> piece : to) {
    while (!piece.empty()) {
      const size_t n = std::min({size - at % size, piece.size(), end - at});
      crc = page::CopyWithCrc32c(piece.data(), bytes.data() + at, n, crc, page::CopyMode::kCache);
      piece = piece.subspan(n);
      at += n;
      if (at % size != 0 && at < end) continue;
      const size_t granule = (at - 1) / size;
      if (std::exchange(crc, 0) != checksums.crc32c[granule]) return granule;
    }
  }
  return std::nullopt;
}

std::optional<size_t> FirstCorruptGranule(const GranuleChecksums& checksums,
                                          const page::Extent& extent,
                                          std::span<const std::byte> bytes) {
  const size_t size = checksums.granule_bytes;
  for (size_t i = extent.offset / size; i * size < extent.offset + extent.bytes; ++i) {
    const std::span<const std::byte> granule = Granule(bytes, size, i);
    if (page::Crc32c(granule.data(), granule.size()) != checksums.crc32c[i]) return i;
  }
  return std::nullopt;
}

}  // namespace varve::store
