// Handles of the page store: an object being filled, and one being read.
#pragma once

#include <memory>
#include <span>

#include "absl/status/status.h"
#include "kvstore/store/object_index.h"
#include "kvstore/store/page_store.h"
#include "kvstore/store/staging.h"
#include "kvstore/tier/tier.h"

namespace varve::store {

// What handles ask of their store. Thread-safe.
class HandleOwner {
 public:
  using Loaded = absl::AnyInvocable<void(absl::StatusOr<Staging::Buffer>) &&>;

  // On success takes the object, and `done`, which it will call.
  virtual absl::Status Commit(std::unique_ptr<Object>& reserved, PutHandle::CommitDone& done) = 0;
  virtual void Abandon(std::unique_ptr<Object> reserved) = 0;
  virtual std::span<std::byte> Map(const tier::Slot& slot) = 0;
  // Reads the object's bytes from `offset` on, so many, both rounded to the log's alignment.
  virtual void Load(Object* object, uint64_t offset, uint64_t bytes, absl::Time deadline,
                    Loaded done) = 0;
  virtual void Close(Object* object) = 0;
  virtual void DropCorrupt(Object* object, TierId tier) = 0;

 protected:
  ~HandleOwner() = default;
};

std::unique_ptr<PutHandle> MakePutHandle(HandleOwner* store, std::unique_ptr<Object> reserved);
// memory: the object's, empty when it is not in host memory.
std::unique_ptr<GetHandle> MakeGetHandle(HandleOwner* store, Object* object,
                                         std::span<const std::byte> memory);
// Of a handle that MakeGetHandle made: the object that its destruction would close, for the caller
// to close. Only destruction may follow.
Object* TakeObject(GetHandle& handle);

}  // namespace varve::store
