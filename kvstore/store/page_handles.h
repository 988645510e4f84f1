// Handles of the page store: an object being filled, and one being read.
#pragma once

#include <memory>
#include <span>

#include "absl/status/status.h"
#include "kvstore/store/object_index.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/tier.h"

namespace varve::store {

// What handles ask of their store. Thread-safe.
class HandleOwner {
 public:
  // Takes the object on success.
  virtual absl::Status Commit(std::unique_ptr<Object>& reserved) = 0;
  virtual void Abandon(const tier::Slot& slot) = 0;
  virtual std::span<std::byte> Map(const Object& object) = 0;
  virtual void Close(Object* object) = 0;
  virtual void DropCorrupt(Object* object) = 0;

 protected:
  ~HandleOwner() = default;
};

std::unique_ptr<PutHandle> MakePutHandle(HandleOwner* store, std::unique_ptr<Object> reserved);
std::unique_ptr<GetHandle> MakeGetHandle(HandleOwner* store, Object* object);

}  // namespace varve::store
