// Objects on disk that are brought back into host memory.
#include <algorithm>
#include <utility>

#include "kvstore/page/checksum.h"
#include "kvstore/store/page_store_impl.h"

namespace varve::store {
namespace {

constexpr size_t kMaxPromotions = 1024;
constexpr uint32_t kPromotionsReading = 8;
// So that nobody waits long behind the lock.
constexpr size_t kPrefetchesPerLock = 256;

}  // namespace

std::vector<Prefetched> PageStoreImpl::Prefetch(NamespaceId ns,
                                                std::span<const page::ObjectKey> keys) {
  std::vector<Prefetched> results;
  results.reserve(keys.size());
  while (results.size() < keys.size()) {
    const size_t stop = std::min(keys.size(), results.size() + kPrefetchesPerLock);
    base::MutexLock lock(mutex_);
    while (results.size() < stop) {
      Object* object = FindLocked(FullKey{ns, keys[results.size()]});
      if (object == nullptr) {
        results.push_back(Prefetched::kNotStored);
      } else if (object->slot.bytes > 0) {
        results.push_back(Prefetched::kInMemory);
      } else {
        const bool begun = QueuePromotionLocked(object, MoveCause::kPrefetch);
        results.push_back(begun ? Prefetched::kBegun : Prefetched::kBusy);
      }
    }
  }
  return results;
}

bool PageStoreImpl::QueuePromotionLocked(Object* object, MoveCause cause) {
  const uint32_t needed = options_.disk->promote_uses;
  if (cause == MoveCause::kPromote && (needed == 0 || uses_.Estimate(object->identity) < needed)) {
    return true;
  }
  if (object->promoting) return true;
  if (stopping_ || promotions_.size() >= kMaxPromotions) return false;
  object->promoting = true;
  index_.OpenUnused(object);
  promotions_.push_back({.object = object, .cause = cause, .slot = {}});
  if (promotions_reading_ < kPromotionsReading) RunLater([this] { StartPromotions(); });
  return true;
}

void PageStoreImpl::StartPromotions() {
  for (;;) {
    Promotion promotion;
    tier::RecordId record = 0;
    {
      base::MutexLock lock(mutex_);
      if (promotions_.empty() || promotions_reading_ >= kPromotionsReading) return;
      promotion = promotions_.front();
      promotions_.pop_front();
      ++promotions_reading_;
      record = promotion.object->slot.bytes == 0 ? promotion.object->record : 0;
      BeginLocked();
    }
    absl::StatusOr<tier::Slot> slot = absl::NotFoundError("");
    if (record != 0) slot = ReserveSlot(promotion.object->meta.bytes);
    if (!slot.ok()) {
      EndPromotion(promotion, false);
      continue;
    }
    promotion.slot = *slot;
    tier::Slot whole = *slot;
    whole.bytes = slot->extent_bytes;
    log().Read(record, 0, host_->Map(whole), tier::IoClass::kPrefetch,
               [this, promotion](const absl::Status& status) {
                 base::MutexLock lock(mutex_);
                 RunLater([this, promotion, status] { OnPromotionRead(promotion, status); });
               });
  }
}

void PageStoreImpl::OnPromotionRead(const Promotion& promotion, const absl::Status& status) {
  if (!status.ok()) {
    NoteReadError(promotion.object, status);
    return EndPromotion(promotion, false);
  }
  const std::span<const std::byte> memory = host_->Map(promotion.slot);
  const bool good =
      page::Crc32c(memory.data(), memory.size()) == promotion.object->checksums.whole_crc32c;
  if (!good) DropCorrupt(promotion.object, TierId::kNvme);
  EndPromotion(promotion, good);
}

void PageStoreImpl::EndPromotion(const Promotion& promotion, bool good) {
  bool taken = false;
  uint64_t bytes = 0;
  {
    base::MutexLock lock(mutex_);
    Object* object = promotion.object;
    bytes = object->meta.bytes;
    taken = good && object->state == ObjectState::kResident && object->slot.bytes == 0;
    if (taken) {
      index_.AddSlot(object, promotion.slot);
      NoteIfBeyondLocked(*object);
    } else {
      FreeSlotLocked(promotion.slot);
    }
    object->promoting = false;
    --promotions_reading_;
    if (!promotions_.empty()) RunLater([this] { StartPromotions(); });
    CloseLocked(object);  // may be the end of it
  }
  if (taken && options_.on_moved) options_.on_moved(promotion.cause, bytes);
  WakeRoomWaiters();
  End();
}

}  // namespace varve::store
