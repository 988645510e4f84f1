#include "gpu_worker/page_pool.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace varve::worker {

PagePool::PagePool(const page::Geometry& geometry, const client::Memory* memory, uint32_t capacity,
                   const base::Clock* clock)
    : geometry_(geometry),
      memory_(memory),
      capacity_(capacity),
      clock_(clock),
      generation_(capacity) {
  free_.reserve(capacity);
  // The lowest slot is handed out first.
  for (uint32_t i = capacity; i > 0; --i) free_.push_back(i - 1);
}

uint32_t PagePool::free() const {
  base::MutexLock lock(mutex_);
  return static_cast<uint32_t>(free_.size() + CountRested());
}

uint32_t PagePool::quarantined() const {
  base::MutexLock lock(mutex_);
  return static_cast<uint32_t>(quarantine_.size() - CountRested());
}

size_t PagePool::CountRested() const {
  if (quarantine_.empty()) return 0;
  const absl::Time now = clock_->Now();
  size_t count = 0;
  while (count < quarantine_.size() && quarantine_[count].until <= now) ++count;
  return count;
}

void PagePool::ReturnQuarantined() {
  for (size_t count = CountRested(); count > 0; --count) {
    PutBack({&quarantine_.front().slot, 1});
    quarantine_.pop_front();
  }
}

void PagePool::PutBack(std::span<const Slot> slots) {
  for (Slot slot : slots) {
    assert(slot < capacity_);
#ifndef NDEBUG
    Poison(slot);
#endif
    free_.push_back(slot);
  }
  assert(free_.size() <= capacity_);
}

bool PagePool::Allocate(std::span<Slot> out) {
  base::MutexLock lock(mutex_);
  ReturnQuarantined();
  if (free_.size() < out.size()) return false;
  for (Slot& slot : out) {
    slot = free_.back();
    free_.pop_back();
    ++generation_[slot];
  }
  return true;
}

uint32_t PagePool::AllocateSome(std::span<Slot> out, uint32_t leave) {
  base::MutexLock lock(mutex_);
  ReturnQuarantined();
  const size_t count = std::min(out.size(), free_.size() - std::min<size_t>(free_.size(), leave));
  for (Slot& slot : out.first(count)) {
    slot = free_.back();
    free_.pop_back();
    ++generation_[slot];
  }
  return static_cast<uint32_t>(count);
}

void PagePool::Free(std::span<const Slot> slots) {
  base::MutexLock lock(mutex_);
  PutBack(slots);
}

void PagePool::Recycle(std::span<const Slot> slots) {
  base::MutexLock lock(mutex_);
  for (Slot slot : slots) {
#ifndef NDEBUG
    Poison(slot);
#endif
    ++generation_[slot];
  }
}

void PagePool::Quarantine(std::span<const Slot> slots, absl::Duration hold) {
  base::MutexLock lock(mutex_);
  const absl::Time now = clock_->Now();
  for (Slot slot : slots) quarantine_.push_back({.slot = slot, .hold = hold, .given_up = now});
}

void PagePool::NoteAnswer(absl::Time asked) {
  base::MutexLock lock(mutex_);
  // The last one first: those that wait for an answer are at the end.
  for (auto it = quarantine_.rbegin(); it != quarantine_.rend(); ++it) {
    if (it->until != absl::InfiniteFuture()) break;
    if (it->given_up <= asked) it->until = clock_->Now() + it->hold;
  }
}

bool PagePool::AwaitsAnswer() const {
  base::MutexLock lock(mutex_);
  return !quarantine_.empty() && quarantine_.back().until == absl::InfiniteFuture();
}

uint32_t PagePool::generation(Slot slot) const {
  base::MutexLock lock(mutex_);
  return generation_[slot];
}

absl::StatusOr<std::unique_ptr<PagePool>> HostPagePool::Create(
    const page::Geometry& geometry, std::unique_ptr<client::Memory> memory, uint32_t min_pages,
    const base::Clock* clock) {
  const size_t bytes = memory->bytes().size();
  const size_t pages =
      std::min<size_t>(bytes / geometry.page_bytes(), std::numeric_limits<int32_t>::max());
  if (pages < min_pages) {
    return absl::InvalidArgumentError(
        absl::StrCat("the page pool of ", bytes, " bytes holds ", pages, " pages of ",
                     geometry.page_bytes(), " bytes, needed: at least ", min_pages, " pages (",
                     min_pages * geometry.page_bytes(), " bytes)"));
  }
  return std::unique_ptr<PagePool>(
      new HostPagePool(geometry, std::move(memory), static_cast<uint32_t>(pages), clock));
}

HostPagePool::HostPagePool(const page::Geometry& geometry, std::unique_ptr<client::Memory> memory,
                           uint32_t capacity, const base::Clock* clock)
    : PagePool(geometry, memory.get(), capacity, clock),
      owned_(std::move(memory)),
      base_(owned_->bytes().data()) {}

void HostPagePool::WriteRows(Slot slot, page::Part part, uint32_t first, uint32_t rows,
                             const std::byte* source, size_t source_stride) {
  const size_t row_bytes = geometry_.row_bytes();
  std::byte* to = Data(slot) + (part == page::Part::kV ? geometry_.part_bytes() : 0) +
                  size_t{first} * row_bytes;
  for (uint32_t i = 0; i < rows; ++i) {
    std::memcpy(to + i * row_bytes, source + i * source_stride, row_bytes);
  }
}

void HostPagePool::Poison(Slot slot) {
  // All bits set is a NaN in fp32, fp16 and bf16.
  std::memset(Data(slot), 0xff, page_bytes());
}

}  // namespace varve::worker
