#include "kvstore/tier/segment_writer.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <thread>
#include <utility>

#include "kvstore/base/status.h"

namespace varve::tier {

absl::StatusOr<std::unique_ptr<SegmentWriter>> SegmentWriter::Create(const Options& options,
                                                                     const Stream& stream,
                                                                     Owner* owner, BlockIo* io,
                                                                     base::Executor* executor) {
  VARVE_ASSIGN_OR_RETURN(Arena arena, Arena::Map(options.buffer_bytes * options.buffers, true));
  return std::unique_ptr<SegmentWriter>(
      new SegmentWriter(options, stream, owner, io, executor, std::move(arena)));
}

SegmentWriter::SegmentWriter(const Options& options, const Stream& stream, Owner* owner,
                             BlockIo* io, base::Executor* executor, Arena arena)
    : options_(options),
      stream_(stream),
      owner_(owner),
      io_(io),
      arena_(std::move(arena)),
      strand_(executor, [this] { Work(); }) {
  io_->AddBuffer(arena_.memory());
  for (uint32_t i = 0; i < options.buffers; ++i) {
    auto buffer = std::make_unique<Buffer>();
    buffer->memory = arena_.memory().subspan(i * options.buffer_bytes, options.buffer_bytes);
    free_.push_back(std::move(buffer));
  }
}

SegmentWriter::~SegmentWriter() {
  strand_.Stop();
  base::MutexLock lock(mutex_);
  while (busy_ > 0) changed_.Wait(mutex_);
  io_->RemoveBuffer(arena_.memory());
}

void SegmentWriter::Add(std::shared_ptr<RecordWrite> write) {
  {
    base::MutexLock lock(mutex_);
    queue_.push_back(std::move(write));
  }
  strand_.Wake();
}

std::vector<std::shared_ptr<RecordWrite>> SegmentWriter::TakeQueued() {
  std::vector<std::shared_ptr<RecordWrite>> taken;
  base::MutexLock lock(mutex_);
  const auto rest = std::stable_partition(queue_.begin(), queue_.end(),
                                          [](const auto& write) { return write->move; });
  taken.assign(std::move_iterator(rest), std::move_iterator(queue_.end()));
  queue_.erase(rest, queue_.end());
  return taken;
}

void SegmentWriter::Rotate() {
  {
    base::MutexLock lock(mutex_);
    rotate_ = true;
  }
  strand_.Wake();
}

void SegmentWriter::Close() {
  {
    base::MutexLock lock(mutex_);
    closing_ = true;
  }
  strand_.Wake();
  base::MutexLock lock(mutex_);
  while (!closed_ || busy_ > 0) changed_.Wait(mutex_);
}

// ---- on the strand

void SegmentWriter::Work() {
  while (TakeNext()) {
    if (!laid_out_ && !LayOut()) {
      if (current_ == nullptr) continue;
      Flush();
      return;  // for want of a segment
    }
    if (!CopyOn()) return;  // for want of a buffer
  }
  Flush();
  bool seal, closing;
  {
    base::MutexLock lock(mutex_);
    closing = closing_;
    seal = (rotate_ || closing) && queue_.empty();
    if (seal) rotate_ = false;
  }
  if (seal) Seal();
  if (!closing) return;
  base::MutexLock lock(mutex_);
  closed_ = queue_.empty();
  changed_.NotifyAll();
}

// Makes the next record that is wanted the current one. False: there is none.
bool SegmentWriter::TakeNext() {
  while (current_ == nullptr) {
    {
      base::MutexLock lock(mutex_);
      if (queue_.empty()) return false;
      current_ = std::move(queue_.front());
      queue_.pop_front();
    }
    const absl::StatusOr<bool> admitted = owner_->Admit(stream_, *current_);
    if (admitted.ok() && *admitted) return true;
    owner_->Finished(std::exchange(current_, nullptr), admitted.status());
  }
  return true;
}

// Finds the current record its place. False: there is no segment now, or the record is over.
bool SegmentWriter::LayOut() {
  if (open_ != nullptr) {
    bool failed;
    {
      base::MutexLock lock(mutex_);
      failed = open_->failed;
    }
    if (failed || !HasRoom()) Seal();
  }
  if (open_ == nullptr) {
    const absl::StatusOr<Segment*> next = owner_->NextSegment(stream_);
    if (!next.ok()) {
      owner_->Finished(std::exchange(current_, nullptr), next.status());
      return false;
    }
    if (*next == nullptr) {
      bool closing;
      {
        base::MutexLock lock(mutex_);
        closing = closing_;
      }
      if (closing) {
        owner_->Finished(std::exchange(current_, nullptr), absl::CancelledError("the log closes"));
      }
      return false;
    }
    open_ = std::make_shared<Open>();
    open_->segment = *next;
    position_ = label_bytes_ = 0;
    entries_.clear();
  }
  const SegmentHeader& header = open_->segment->header;
  const auto label_bytes = static_cast<uint32_t>(current_->label.size());
  const RecordExtent extent = ExtentOf(label_bytes, current_->payload.size(), header.alignment);
  const uint64_t offset = position_ == 0 ? header.alignment : position_;
  const Place place{open_->segment, static_cast<uint32_t>(offset),
                    static_cast<uint32_t>(extent.payload_offset),
                    static_cast<uint32_t>(extent.total_bytes)};
  const uint64_t footer =
      FooterBytes(entries_.size() + 1, label_bytes_ + label_bytes, header.alignment);
  const uint64_t room = header.segment_bytes - offset - extent.total_bytes - footer;
  if (!owner_->Lay(*current_, place, room)) {
    owner_->Finished(std::exchange(current_, nullptr), absl::OkStatus());
    return false;
  }
  prefix_.clear();
  if (position_ == 0) prefix_ = *EncodeSegmentHeader(header);
  prefix_ += EncodeRecordHeader({current_->kind, current_->id, current_->payload_crc32c,
                                 current_->payload.size(), current_->label},
                                offset, header);
  entries_.push_back({offset, current_->kind, current_->id, current_->payload_crc32c,
                      current_->payload.size(), current_->label});
  label_bytes_ += label_bytes;
  base_ = position_;
  copied_ = 0;
  total_ = offset + extent.total_bytes - base_;
  laid_out_ = true;
  base::MutexLock lock(mutex_);
  current_->unwritten_ = 1;
  current_->status_ = absl::OkStatus();
  return true;
}

bool SegmentWriter::HasRoom() const {
  const SegmentHeader& header = open_->segment->header;
  const auto label_bytes = static_cast<uint32_t>(current_->label.size());
  const uint64_t offset = position_ == 0 ? header.alignment : position_;
  return offset + ExtentOf(label_bytes, current_->payload.size(), header.alignment).total_bytes +
             FooterBytes(entries_.size() + 1, label_bytes_ + label_bytes, header.alignment) <=
         header.segment_bytes;
}

// Brings the current record into buffers. False: there is no more buffer now.
bool SegmentWriter::CopyOn() {
  while (copied_ < total_) {
    if (fill_ == nullptr) {
      fill_ = TakeBuffer();
      if (fill_ == nullptr) return false;
      fill_->offset = base_ + copied_;
      fill_->open = open_;
    }
    const size_t bytes = std::min(fill_->memory.size() - fill_->used, total_ - copied_);
    CopyPiece(fill_->memory.subspan(fill_->used, bytes));
    // The kernel looks at its turns every few milliseconds only, and somebody may wait for a get.
    std::this_thread::yield();
    fill_->used += bytes;
    copied_ += bytes;
    fill_->writes.push_back(current_);
    {
      base::MutexLock lock(mutex_);
      ++current_->unwritten_;
    }
    if (fill_->used == fill_->memory.size()) Flush();
  }
  position_ = base_ + total_;
  laid_out_ = false;
  std::shared_ptr<RecordWrite> write = std::move(current_);
  bool over;
  {
    base::MutexLock lock(mutex_);
    over = --write->unwritten_ == 0;
  }
  if (over) Over(open_, std::move(write));
  return true;
}

// The bytes of the current record from copied_ on: prefix, payload, zeros.
void SegmentWriter::CopyPiece(std::span<std::byte> to) const {
  const auto copy = [&](const void* from, uint64_t begin, uint64_t bytes) {
    if (copied_ + to.size() <= begin || begin + bytes <= copied_) return;
    const uint64_t first = std::max(begin, copied_);
    const uint64_t last = std::min(begin + bytes, copied_ + to.size());
    std::memcpy(to.data() + (first - copied_), static_cast<const char*>(from) + (first - begin),
                last - first);
  };
  const uint64_t end = prefix_.size() + current_->payload.size();
  copy(prefix_.data(), 0, prefix_.size());
  copy(current_->payload.data(), prefix_.size(), current_->payload.size());
  if (copied_ + to.size() > end) {
    const uint64_t zeros = std::min<uint64_t>(to.size(), copied_ + to.size() - end);
    std::memset(to.data() + (to.size() - zeros), 0, zeros);
  }
}

void SegmentWriter::Flush() {
  if (fill_ == nullptr) return;
  std::unique_ptr<Buffer> buffer = std::move(fill_);
  {
    base::MutexLock lock(mutex_);
    ++buffer->open->writes;
    ++busy_;
  }
  const int fd = buffer->open->segment->file.get();
  const std::span<const std::byte> bytes = buffer->memory.first(buffer->used);
  const uint64_t offset = buffer->offset;
  io_->Write(fd, offset, bytes, options_.io_class,
             [this, buffer = std::move(buffer)](absl::Status status) mutable {
               Written(std::move(buffer), status);
             });
}

void SegmentWriter::Seal() {
  if (open_ == nullptr) return;
  Flush();
  const std::shared_ptr<Open> open = std::move(open_);
  const SegmentHeader& header = open->segment->header;
  const std::string footer = EncodeFooter(entries_, header);
  absl::StatusOr<Arena> memory = Arena::Map(footer.size(), false);
  {
    base::MutexLock lock(mutex_);
    open->sealing = true;
    // A segment without a footer is read through at the next start.
    if (memory.ok() && position_ != 0) {
      open->footer = std::move(*memory);
      open->footer_bytes = footer.size();
      std::memcpy(open->footer.memory().data(), footer.data(), footer.size());
    } else {
      open->failed = true;
    }
    ++busy_;
  }
  SealWhenWritten(open);
  Leave();
}

// ---- anywhere

std::unique_ptr<SegmentWriter::Buffer> SegmentWriter::TakeBuffer() {
  base::MutexLock lock(mutex_);
  if (free_.empty()) return nullptr;
  std::unique_ptr<Buffer> buffer = std::move(free_.back());
  free_.pop_back();
  return buffer;
}

void SegmentWriter::Written(std::unique_ptr<Buffer> buffer, const absl::Status& status) {
  if (!status.ok()) owner_->Failed(stream_, status);
  std::vector<std::shared_ptr<RecordWrite>> over;
  const std::shared_ptr<Open> open = std::move(buffer->open);
  {
    base::MutexLock lock(mutex_);
    for (std::shared_ptr<RecordWrite>& write : buffer->writes) {
      write->status_.Update(status);
      if (--write->unwritten_ == 0) over.push_back(std::move(write));
    }
    buffer->writes.clear();
    buffer->used = 0;
    free_.push_back(std::move(buffer));
    --open->writes;
    if (!status.ok()) open->failed = true;
  }
  for (std::shared_ptr<RecordWrite>& write : over) Over(open, std::move(write));
  SealWhenWritten(open);
  strand_.Wake();
  Leave();
}

// All of the record is with the system, or an error.
void SegmentWriter::Over(const std::shared_ptr<Open>& open, std::shared_ptr<RecordWrite> write) {
  if (!write->status_.ok() || write->sync == Sync::kNo) {
    const absl::Status status = write->status_;
    owner_->Finished(write, status);
    return;
  }
  {
    base::MutexLock lock(mutex_);
    open->unsynced.push_back(std::move(write));
    if (std::exchange(open->syncing, true)) return;
  }
  Sync(open);
}

// One sync answers for all that were waiting for it.
void SegmentWriter::Sync(const std::shared_ptr<Open>& open) {
  std::vector<std::shared_ptr<RecordWrite>> writes;
  {
    base::MutexLock lock(mutex_);
    writes.swap(open->unsynced);
    open->syncing = !writes.empty();
    if (writes.empty()) return;
    ++busy_;
  }
  io_->Sync(open->segment->file.get(),
            [this, open, writes = std::move(writes)](absl::Status status) {
              if (!status.ok()) {
                owner_->Failed(stream_, status);
                base::MutexLock lock(mutex_);
                open->failed = true;
              }
              for (const auto& write : writes) owner_->Finished(write, status);
              Sync(open);
              SealWhenWritten(open);
              Leave();
            });
}

// The footer follows when nothing else of the segment is under way.
void SegmentWriter::SealWhenWritten(const std::shared_ptr<Open>& open) {
  bool failed;
  {
    base::MutexLock lock(mutex_);
    if (!open->sealing || open->writes > 0 || open->syncing) return;
    open->sealing = false;
    failed = open->failed;
    ++busy_;
  }
  if (failed) {
    EndSeal(open, absl::OkStatus());
    return;
  }
  io_->Sync(open->segment->file.get(),
            [this, open](absl::Status status) { WriteFooter(open, status); });
}

void SegmentWriter::WriteFooter(const std::shared_ptr<Open>& open, const absl::Status& synced) {
  if (!synced.ok()) {
    EndSeal(open, synced);
    return;
  }
  io_->Write(open->segment->file.get(), open->segment->header.segment_bytes - open->footer_bytes,
             open->footer.memory().first(open->footer_bytes), options_.io_class,
             [this, open](absl::Status status) { EndSeal(open, status); });
}

void SegmentWriter::EndSeal(const std::shared_ptr<Open>& open, const absl::Status& status) {
  if (!status.ok()) owner_->Failed(stream_, status);
  owner_->Sealed(stream_, *open->segment);
  Leave();
}

// The end of a callback: the writer may be gone after it.
void SegmentWriter::Leave() {
  base::MutexLock lock(mutex_);
  if (--busy_ == 0) changed_.NotifyAll();
}

}  // namespace varve::tier
