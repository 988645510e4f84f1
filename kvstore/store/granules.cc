#include "kvstore/store/granules.h"

#include <algorithm>

namespace varve::store {
size_t GranuleBytes(const page::ObjectLayout& layout) {
  return layout.num_kv_heads == 0 ? kOpaqueGranuleBytes : layout.part_bytes;
}

size_t GranuleCopier::BytesOf(size_t granule) const {
  return std::min(granule_bytes_, object_bytes_ - granule * granule_bytes_);
}

void GranuleCopier::Copy(size_t offset, void* to, const void* from, size_t bytes,
                         page::CopyMode mode) {
  if (running_.empty()) running_.resize(num_granules());
  auto* out = static_cast<std::byte*>(to);
  const auto* in = static_cast<const std::byte*>(from);
  while (bytes > 0) {
    const size_t granule = offset / granule_bytes_;
    const size_t at = offset % granule_bytes_;
    const size_t n = std::min(bytes, BytesOf(granule) - at);
    Running& running = running_[granule];
    if (running.bytes != at && !running.broken) {
      running.broken = true;
      if (running.bytes == BytesOf(granule)) --complete_;
    }
    running.crc32c = page::CopyWithCrc32c(out, in, n, running.crc32c, mode);
    running.bytes = at + n;
    if (!running.broken && running.bytes == BytesOf(granule)) ++complete_;
    offset += n;
    out += n;
    in += n;
    bytes -= n;
  }
}

std::optional<uint32_t> GranuleCopier::crc32c(size_t granule) const {
  if (running_.empty()) return std::nullopt;
  const Running& running = running_[granule];
  if (running.broken || running.bytes != BytesOf(granule)) return std::nullopt;
  return running.crc32c;
}

GranuleChecksums Summarize(std::span<const std::byte> object, size_t granule_bytes,
                           const GranuleCopier& copier) {
  GranuleChecksums sums{.granule_bytes = granule_bytes, .crc32c = {}};
  const size_t granules = (object.size() + granule_bytes - 1) / granule_bytes;
  sums.crc32c.reserve(granules);
  for (size_t i = 0; i < granules; ++i) {
    const size_t bytes = std::min(granule_bytes, object.size() - i * granule_bytes);
    std::optional<uint32_t> crc = copier.crc32c(i);
    if (!crc) crc = page::Crc32c(object.data() + i * granule_bytes, bytes);
    sums.crc32c.push_back(*crc);
    sums.whole_crc32c = page::Crc32cCombine(sums.whole_crc32c, *crc, bytes);
  }
  return sums;
}

std::optional<size_t> FirstCorruptGranule(const GranuleChecksums& checksums,
                                          const page::Extent& extent,
                                          std::span<const std::byte> bytes, size_t bytes_offset,
                                          const GranuleCopier& copier) {
  const size_t size = checksums.granule_bytes;
  for (size_t i = extent.offset / size; i * size < extent.offset + extent.bytes; ++i) {
    std::optional<uint32_t> crc = copier.crc32c(i);
    if (!crc) {
      const std::span<const std::byte> granule = bytes.subspan(i * size - bytes_offset);
      crc = page::Crc32c(granule.data(), std::min(size, granule.size()));
    }
    if (*crc != checksums.crc32c[i]) return i;
  }
  return std::nullopt;
}

}  // namespace varve::store
