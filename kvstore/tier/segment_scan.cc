#include "kvstore/tier/segment_scan.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "kvstore/base/status.h"
#include "kvstore/page/checksum.h"
#include "kvstore/tier/arena.h"

namespace varve::tier {
namespace {

constexpr uint64_t kWindowBytes = 4 << 20;
constexpr uint64_t kFewBytes = 65536;
// A record's header is found whole in so many bytes.
constexpr uint64_t kHeaderBytes = kMaxLabelBytes + 65536;

absl::Status ReadNow(BlockIo* io, int fd, uint64_t offset, std::span<std::byte> to) {
  return Await(
      [&](BlockIo::Done done) { io->Read(fd, offset, to, IoClass::kDemand, std::move(done)); });
}

// Some MiB of the file in memory, that move along with what is asked for.
class Window {
 public:
  // end: of the file, or of the segment.
  static absl::StatusOr<Window> Make(BlockIo* io, int fd, uint64_t end) {
    VARVE_ASSIGN_OR_RETURN(Arena arena, Arena::Map(kWindowBytes, false));
    return Window(io, fd, end, std::move(arena));
  }

  uint64_t end() const { return end_; }
  bool unreadable() const { return unreadable_; }
  // The bytes of one read: few when single places are looked at.
  void set_step(uint64_t bytes) { step_ = bytes; }

  // At least `bytes` (at most kHeaderBytes) from offset on, a multiple of the alignment; less at
  // the end. DATA_LOSS: nothing, or it cannot be read.
  absl::StatusOr<std::span<const std::byte>> At(uint64_t offset, uint64_t bytes) {
    if (offset >= end_) return absl::DataLossError("the segment is cut off");
    bytes = std::min(bytes, end_ - offset);
    if (offset < begin_ || offset + bytes > begin_ + filled_) {
      const uint64_t next = std::min(std::max(bytes, step_), end_ - offset);
      begin_ = offset;
      filled_ = 0;
      const absl::Status read = ReadNow(io_, fd_, offset, arena_.memory().first(next));
      unreadable_ = unreadable_ || !read.ok();
      VARVE_RETURN_IF_ERROR(read);
      filled_ = next;
    }
    return std::span<const std::byte>(arena_.memory())
        .subspan(offset - begin_, filled_ - (offset - begin_));
  }

 private:
  Window(BlockIo* io, int fd, uint64_t end, Arena arena)
      : io_(io), fd_(fd), end_(end), arena_(std::move(arena)) {}

  BlockIo* io_;
  int fd_;
  uint64_t end_;
  uint64_t step_ = kFewBytes;
  Arena arena_;
  uint64_t begin_ = 0, filled_ = 0;
  bool unreadable_ = false;
};

class Reader {
 public:
  Reader(BlockIo* io, int fd, const SegmentHeader& header, Window window)
      : io_(io), fd_(fd), header_(header), window_(std::move(window)) {}

  absl::StatusOr<SegmentContents> Read() {
    VARVE_ASSIGN_OR_RETURN(contents_.footer, ReadFooter());
    if (!contents_.footer) Scan();
    contents_.unreadable = window_.unreadable();
    return std::move(contents_);
  }

 private:
  // False: there is none that can be trusted.
  absl::StatusOr<bool> ReadFooter() {
    const auto last = window_.At(header_.segment_bytes - header_.alignment, header_.alignment);
    if (!last.ok()) return false;
    const auto offset = FindFooter(*last, header_);
    if (!offset.ok() || !offset->has_value()) return false;
    const uint64_t bytes = header_.segment_bytes - **offset;
    VARVE_ASSIGN_OR_RETURN(Arena footer, Arena::Map(bytes, false));
    const std::span<std::byte> memory = footer.memory().first(bytes);
    if (!ReadNow(io_, fd_, **offset, memory).ok()) return false;
    auto entries = ParseFooter(memory, header_);
    if (!entries.ok()) return false;
    for (FooterEntry& entry : *entries) {
      const RecordExtent extent = ExtentOf(static_cast<uint32_t>(entry.label.size()),
                                           entry.payload_bytes, header_.alignment);
      if (entry.offset % header_.alignment != 0 || extent.total_bytes > **offset ||
          entry.offset > **offset - extent.total_bytes) {
        ++contents_.damaged_records;
        continue;
      }
      Take(std::move(entry), extent, false);
    }
    return true;
  }

  // Every place where a record can begin.
  void Scan() {
    window_.set_step(kWindowBytes);
    uint64_t offset = 0;
    while (offset < window_.end()) {
      auto bytes = window_.At(offset, header_.alignment);
      absl::StatusOr<RecordHeader> found =
          bytes.ok() ? ParseRecordHeader(*bytes, offset, header_) : bytes.status();
      if (bytes.ok() && absl::IsOutOfRange(found.status())) {
        bytes = window_.At(offset, kHeaderBytes);
        if (bytes.ok()) found = ParseRecordHeader(*bytes, offset, header_);
      }
      if (!bytes.ok()) {
        ++contents_.damaged_records;
        offset += kWindowBytes;
        continue;
      }
      if (!found.ok()) {
        if (!absl::IsNotFound(found.status())) ++contents_.damaged_records;
        offset += header_.alignment;
        continue;
      }
      const RecordExtent extent = ExtentOf(static_cast<uint32_t>(found->label.size()),
                                           found->payload_bytes, header_.alignment);
      Take({offset, found->kind, found->sequence, found->payload_crc32c, found->payload_bytes,
            std::string(found->label)},
           extent, true);
      // A record with a whole header takes its place even when its payload is torn.
      offset += extent.total_bytes;
    }
  }

  void Take(FooterEntry entry, const RecordExtent& extent, bool check) {
    contents_.last_sequence = std::max(contents_.last_sequence, entry.sequence);
    contents_.end_bytes = std::max(contents_.end_bytes, entry.offset + extent.total_bytes);
    contents_.greatest_bytes = std::max(contents_.greatest_bytes, extent.total_bytes);
    const bool tombstones = entry.kind == RecordKind::kTombstone;
    if (check || tombstones) {
      std::string payload;
      const auto crc = ReadPayload(entry, extent, tombstones ? &payload : nullptr);
      if (!crc.ok() || *crc != entry.payload_crc32c) {
        ++contents_.damaged_records;
        return;
      }
      if (tombstones) {
        TakeTombstones(payload);
        contents_.tombstone_records.push_back(std::move(entry));
        return;
      }
    }
    contents_.records.push_back(std::move(entry));
  }

  void TakeTombstones(const std::string& payload) {
    const auto found = ParseTombstones(std::as_bytes(std::span(payload)));
    if (!found.ok()) {
      ++contents_.damaged_records;
      return;
    }
    for (const Tombstone& tombstone : *found) {
      contents_.last_sequence = std::max(contents_.last_sequence, tombstone.id);
      contents_.tombstones.push_back(tombstone);
    }
  }

  // Its CRC; copy: where the payload itself goes, unless null.
  absl::StatusOr<uint32_t> ReadPayload(const FooterEntry& entry, const RecordExtent& extent,
                                       std::string* copy) {
    uint32_t crc = 0;
    uint64_t offset = entry.offset + extent.payload_offset;
    for (uint64_t left = entry.payload_bytes; left > 0;) {
      VARVE_ASSIGN_OR_RETURN(std::span<const std::byte> bytes,
                             window_.At(offset, header_.alignment));
      bytes = bytes.first(std::min<uint64_t>(bytes.size(), left));
      crc = page::Crc32c(bytes.data(), bytes.size(), crc);
      if (copy != nullptr) copy->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      offset += bytes.size();
      left -= bytes.size();
    }
    return crc;
  }

  BlockIo* const io_;
  const int fd_;
  const SegmentHeader header_;
  Window window_;
  SegmentContents contents_;
};

}  // namespace

absl::StatusOr<SegmentContents> ReadSegment(BlockIo* io, int fd, const SegmentHeader& header) {
  struct stat found {};
  if (fstat(fd, &found) != 0) return absl::ErrnoToStatus(errno, "fstat");
  const uint64_t file_bytes = static_cast<uint64_t>(found.st_size);
  VARVE_ASSIGN_OR_RETURN(Window window,
                         Window::Make(io, fd,
                                      std::min(header.segment_bytes,
                                               file_bytes / header.alignment * header.alignment)));
  VARVE_ASSIGN_OR_RETURN(SegmentContents contents,
                         Reader(io, fd, header, std::move(window)).Read());
  contents.cut_off = file_bytes < header.segment_bytes;
  return contents;
}

}  // namespace varve::tier
