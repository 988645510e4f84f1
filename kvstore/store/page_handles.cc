#include "kvstore/store/page_handles.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/store/granules.h"

namespace varve::store {
namespace {

class PutHandleImpl final : public PutHandle {
 public:
  PutHandleImpl(HandleOwner* store, std::unique_ptr<Object> reserved)
      : store_(store),
        reserved_(std::move(reserved)),
        granule_bytes_(GranuleBytes(reserved_->meta.layout)),
        copier_(reserved_->meta.bytes, granule_bytes_) {}
  ~PutHandleImpl() override { Abandon(); }
  PutHandleImpl(const PutHandleImpl&) = delete;
  PutHandleImpl& operator=(const PutHandleImpl&) = delete;

  std::span<std::byte> memory() override {
    return reserved_ == nullptr ? std::span<std::byte>() : store_->Map(reserved_->slot);
  }

  void CopyFrom(uint64_t offset, const void* bytes, size_t count) override {
    copier_.Copy(offset, memory().data() + offset, bytes, count, page::CopyMode::kStream);
  }
  bool checksummed() const override { return copier_.complete(); }

  void Commit(std::optional<uint32_t> expected_crc32c, CommitDone done) override {
    absl::Status status = TryCommit(expected_crc32c, done);
    Abandon();
    if (!status.ok()) std::move(done)(std::move(status));
  }

 private:
  // OK: the store has the object, and `done`.
  absl::Status TryCommit(std::optional<uint32_t> expected_crc32c, CommitDone& done) {
    if (reserved_ == nullptr) {
      return absl::FailedPreconditionError("Commit was called before on this handle");
    }
    reserved_->checksums = Summarize(memory(), granule_bytes_, copier_);
    const uint32_t crc = reserved_->checksums.whole_crc32c;
    if (expected_crc32c.has_value() && *expected_crc32c != crc) {
      return absl::DataLossError(
          absl::StrCat("the value's crc32c is ", crc, ", expected ", *expected_crc32c));
    }
    return store_->Commit(reserved_, done);
  }

  void Abandon() {
    if (reserved_ != nullptr) store_->Abandon(std::move(reserved_));
  }

  HandleOwner* const store_;
  std::unique_ptr<Object> reserved_;  // null once committed or abandoned
  const size_t granule_bytes_;
  GranuleCopier copier_;
};

class GetHandleImpl final : public GetHandle {
 public:
  GetHandleImpl(HandleOwner* store, Object* object, std::span<const std::byte> memory)
      : store_(store),
        object_(object),
        tier_(memory.empty() ? TierId::kNvme : TierId::kHost),
        memory_(memory),
        copier_(object->meta.bytes, object->checksums.granule_bytes) {}
  ~GetHandleImpl() override {
    if (object_ != nullptr) store_->Close(object_);
  }
  GetHandleImpl(const GetHandleImpl&) = delete;
  GetHandleImpl& operator=(const GetHandleImpl&) = delete;

  Object* TakeObject() { return std::exchange(object_, nullptr); }

  const ObjectMeta& meta() const override { return object_->meta; }
  TierId tier() const override { return tier_; }
  uint32_t crc32c() const override { return object_->checksums.whole_crc32c; }
  bool loaded() const override { return !memory_.empty(); }
  std::span<const std::byte> memory() const override { return memory_; }
  std::span<const std::byte> Bytes(const page::Extent& extent) const override {
    return memory_.subspan(extent.offset - offset_, extent.bytes);
  }

  void Load(const page::ObjectRange& range, absl::Time deadline, LoadDone done) override {
    absl::Status status = CheckRange(range);
    if (!status.ok() || loaded()) return std::move(done)(std::move(status));
    uint64_t begin = UINT64_MAX, end = 0;
    ForEachExtentOf(range, [&](const page::Extent& extent) {
      begin = std::min<uint64_t>(begin, extent.offset);
      end = std::max<uint64_t>(end, extent.offset + extent.bytes);
    });
    const uint64_t aligned = begin / tier::kReadAlignment * tier::kReadAlignment;
    store_->Load(object_, aligned, end - aligned, deadline,
                 [this, begin, aligned, bytes = end - begin,
                  done = std::move(done)](absl::StatusOr<Staging::Buffer> read) mutable {
                   if (!read.ok()) return std::move(done)(read.status());
                   buffer_ = *std::move(read);
                   offset_ = begin;
                   memory_ = buffer_.memory().subspan(begin - aligned, bytes);
                   std::move(done)(absl::OkStatus());
                 });
  }

  void Unstage() override {
    if (tier_ == TierId::kHost || !own_.empty()) return;
    own_.assign(memory_.begin(), memory_.end());
    memory_ = own_;
    buffer_ = Staging::Buffer();
  }

  absl::Status Verify(const page::ObjectRange& range) override {
    VARVE_RETURN_IF_ERROR(CheckRange(range));
    std::optional<size_t> corrupt;
    ForEachExtentOf(range, [&](const page::Extent& extent) {
      if (!corrupt) {
        corrupt = FirstCorruptGranule(object_->checksums, extent, memory_, offset_, copier_);
      }
    });
    if (!corrupt.has_value()) return absl::OkStatus();
    store_->DropCorrupt(object_, tier_);
    return absl::DataLossError(absl::StrCat("object ", object_->key.key.ToHex(),
                                            ": checksum of granule ", *corrupt,
                                            " does not match; what was read is dropped"));
  }

  void CopyTo(void* to, const void* from, size_t count) override {
    const auto at = static_cast<const std::byte*>(from) - memory_.data();
    copier_.Copy(offset_ + static_cast<size_t>(at), to, from, count, page::CopyMode::kCache);
  }

 private:
  absl::Status CheckRange(const page::ObjectRange& range) const {
    const page::ObjectLayout& layout = object_->meta.layout;
    if (range.whole() || page::RangeBytes(layout, range).has_value()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("heads from ", range.head_begin, ", ", range.head_count,
                     " of them, are not in the object, which has ", layout.num_kv_heads,
                     " KV heads (0: opaque, only the whole object is a range)"));
  }

  template <typename Fn>
  void ForEachExtentOf(const page::ObjectRange& range, Fn&& fn) const {
    if (range.whole()) return fn(page::Extent{0, object_->meta.bytes});
    page::ForEachExtent(object_->meta.layout, range, fn);
  }

  HandleOwner* const store_;
  Object* object_;  // null: closed already
  const TierId tier_;
  Staging::Buffer buffer_;      // of what was read from disk
  std::vector<std::byte> own_;  // the same, out of the staging
  size_t offset_ = 0;           // of memory_ in the object
  std::span<const std::byte> memory_;
  GranuleCopier copier_;
};

}  // namespace

std::unique_ptr<PutHandle> MakePutHandle(HandleOwner* store, std::unique_ptr<Object> reserved) {
  return std::make_unique<PutHandleImpl>(store, std::move(reserved));
}

std::unique_ptr<GetHandle> MakeGetHandle(HandleOwner* store, Object* object,
                                         std::span<const std::byte> memory) {
  return std::make_unique<GetHandleImpl>(store, object, memory);
}

Object* TakeObject(GetHandle& handle) { return static_cast<GetHandleImpl&>(handle).TakeObject(); }

}  // namespace varve::store
