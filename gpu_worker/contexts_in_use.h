// The contexts that sequences of one client session work on. The store keeps one attachment for
// each context and session: when two sequences shared it, the first to close would give up the
// other's pages.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "kvstore/base/mutex.h"

namespace varve::worker {

// Thread-safe. Made by std::make_shared.
class ContextsInUse : public std::enable_shared_from_this<ContextsInUse> {
 public:
  // Gives the name back when it goes.
  class Name {
   public:
    Name() = default;
    Name(std::shared_ptr<ContextsInUse> names, std::string id)
        : names_(std::move(names)), id_(std::move(id)) {}
    Name(Name&&) = default;
    Name& operator=(Name&& other) noexcept {
      std::swap(names_, other.names_);
      std::swap(id_, other.id_);
      return *this;
    }
    ~Name() {
      if (names_ != nullptr) names_->GiveBack(id_);
    }
    bool taken() const { return names_ != nullptr; }

   private:
    std::shared_ptr<ContextsInUse> names_;
    std::string id_;
  };

  // Not taken when another sequence has the name.
  Name Take(const std::string& id) {
    base::MutexLock lock(mutex_);
    return ids_.insert(id).second ? Name(shared_from_this(), id) : Name();
  }

 private:
  void GiveBack(const std::string& id) {
    base::MutexLock lock(mutex_);
    ids_.erase(id);
  }

  base::Mutex mutex_;
  absl::flat_hash_set<std::string> ids_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::worker
