// The worker's page memory: equal slots of one page (K and V parts) each, in one registered arena.
//
// Bookkeeping (free list, generations, quarantine) is here; where the bytes are is the virtual
// core: host memory now, a device arena with the same interface later. A slot belongs to whoever
// allocated it until it is freed. Its generation grows with each allocation, so a reference that
// outlived its slot can be told from the next owner's. Quarantine: after a failed transfer a late
// write of the store may still land in the slot, and a store that hangs may begin it at any time;
// such slots come back when the store has answered a later request and the hold time has passed
// since. Debug builds fill freed slots with NaN, so that a stale read shows in the output.
// Threads: all methods may be called from any thread; the bytes of a slot are its owner's to
// synchronise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "kvstore/base/clock.h"
#include "kvstore/base/mutex.h"
#include "kvstore/page/attention.h"
#include "kvstore/page/geometry.h"

namespace varve::worker {

using Slot = uint32_t;
constexpr Slot kNoSlot = UINT32_MAX;

class PagePool {
 public:
  virtual ~PagePool() = default;
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  uint32_t capacity() const { return capacity_; }
  uint32_t free() const;
  size_t page_bytes() const { return geometry_.page_bytes(); }

  // All of out, or nothing and false.
  bool Allocate(std::span<Slot> out);
  // As many as there are, but for `leave` that stay free; answers how many leading entries of out
  // are set.
  uint32_t AllocateSome(std::span<Slot> out, uint32_t leave = 0);
  void Free(std::span<const Slot> slots);
  // Free and Allocate in one: the slots stay with the caller for another page, with a new
  // generation.
  void Recycle(std::span<const Slot> slots);
  void Quarantine(std::span<const Slot> slots, absl::Duration hold);
  // The store has answered what it was asked at that time (of Now): it has read all requests of
  // before.
  void NoteAnswer(absl::Time asked);
  bool AwaitsAnswer() const;
  uint32_t quarantined() const;
  absl::Time Now() const { return clock_->Now(); }
  uint32_t generation(Slot slot) const;

  // The slot as registered memory, for transfers.
  client::Piece PieceOf(Slot slot) const {
    return {memory_, size_t{slot} * page_bytes(), page_bytes()};
  }
  // The slot as attention sees it, first `tokens` rows.
  page::PageView ViewOf(Slot slot, uint32_t tokens) const {
    const std::byte* base = Data(slot);
    return {base, base + geometry_.part_bytes(), tokens};
  }

  // Memory of the slot, in the address space of the pool's kernels (host memory for HostPagePool).
  virtual std::byte* Data(Slot slot) const = 0;
  // Copies `rows` rows of head_dim elements into rows [first, first + rows) of the slot's K or V
  // part; consecutive source rows are source_stride bytes apart.
  virtual void WriteRows(Slot slot, page::Part part, uint32_t first, uint32_t rows,
                         const std::byte* source, size_t source_stride) = 0;

 protected:
  PagePool(const page::Geometry& geometry, const client::Memory* memory, uint32_t capacity,
           const base::Clock* clock);
  virtual void Poison(Slot slot) = 0;

  const page::Geometry geometry_;

 private:
  struct Resting {
    Slot slot = 0;
    absl::Duration hold;
    absl::Time given_up;
    absl::Time until = absl::InfiniteFuture();  // the store has not answered since
  };

  size_t CountRested() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReturnQuarantined() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PutBack(std::span<const Slot> slots) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const client::Memory* const memory_;
  const uint32_t capacity_;
  const base::Clock* const clock_;
  mutable base::Mutex mutex_;
  std::vector<Slot> free_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> generation_ ABSL_GUARDED_BY(mutex_);
  std::deque<Resting> quarantine_ ABSL_GUARDED_BY(mutex_);
};

class HostPagePool final : public PagePool {
 public:
  // memory: registered with the client that the pages travel by; the pool keeps it.
  // INVALID_ARGUMENT when it holds fewer than min_pages pages.
  static absl::StatusOr<std::unique_ptr<PagePool>> Create(
      const page::Geometry& geometry, std::unique_ptr<client::Memory> memory, uint32_t min_pages,
      const base::Clock* clock = &base::SystemClock::Get());

  std::byte* Data(Slot slot) const override { return base_ + size_t{slot} * page_bytes(); }
  void WriteRows(Slot slot, page::Part part, uint32_t first, uint32_t rows, const std::byte* source,
                 size_t source_stride) override;

 private:
  HostPagePool(const page::Geometry& geometry, std::unique_ptr<client::Memory> memory,
               uint32_t capacity, const base::Clock* clock);
  void Poison(Slot slot) override;

  std::unique_ptr<client::Memory> owned_;
  std::byte* const base_;
};

}  // namespace varve::worker
