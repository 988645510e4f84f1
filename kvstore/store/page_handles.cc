#include "kvstore/store/page_handles.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
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
    return reserved_ == nullptr ? std::span<std::byte>() : store_->Map(*reserved_);
  }

  void CopyFrom(uint64_t offset, const void* bytes, size_t count) override {
    copier_.Copy(offset, memory().data() + offset, bytes, count, page::CopyMode::kStream);
  }
  bool checksummed() const override { return copier_.complete(); }

  absl::Status Commit(std::optional<uint32_t> expected_crc32c) override {
    if (reserved_ == nullptr) {
      return absl::FailedPreconditionError("Commit was called before on this handle");
    }
    reserved_->checksums = Summarize(memory(), granule_bytes_, copier_);
    const uint32_t crc = reserved_->checksums.whole_crc32c;
    absl::Status status;
    if (expected_crc32c.has_value() && *expected_crc32c != crc) {
      status = absl::DataLossError(
          absl::StrCat("the value's crc32c is ", crc, ", expected ", *expected_crc32c));
    } else {
      status = store_->Commit(reserved_);
    }
    Abandon();
    return status;
  }

 private:
  void Abandon() {
    if (reserved_ != nullptr) store_->Abandon(reserved_->slot);
    reserved_.reset();
  }

  HandleOwner* const store_;
  std::unique_ptr<Object> reserved_;  // null once committed or abandoned
  const size_t granule_bytes_;
  GranuleCopier copier_;
};

class GetHandleImpl final : public GetHandle {
 public:
  GetHandleImpl(HandleOwner* store, Object* object)
      : store_(store),
        object_(object),
        memory_(store->Map(*object)),
        copier_(memory_.size(), object->checksums.granule_bytes) {}
  ~GetHandleImpl() override { store_->Close(object_); }
  GetHandleImpl(const GetHandleImpl&) = delete;
  GetHandleImpl& operator=(const GetHandleImpl&) = delete;

  const ObjectMeta& meta() const override { return object_->meta; }
  TierId tier() const override { return object_->tier; }
  uint32_t crc32c() const override { return object_->checksums.whole_crc32c; }
  std::span<const std::byte> memory() const override { return memory_; }

  absl::Status Verify(const page::ObjectRange& range) override {
    const page::ObjectLayout& layout = object_->meta.layout;
    if (!range.whole() && !page::RangeBytes(layout, range).has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("heads from ", range.head_begin, ", ", range.head_count,
                       " of them, are not in the object, which has ", layout.num_kv_heads,
                       " KV heads (0: opaque, only the whole object is a range)"));
    }
    std::optional<size_t> corrupt;
    const auto check = [&](const page::Extent& extent) {
      if (!corrupt) corrupt = FirstCorruptGranule(object_->checksums, extent, memory_, copier_);
    };
    if (range.whole()) {
      check({0, memory_.size()});
    } else {
      page::ForEachExtent(layout, range, check);
    }
    if (!corrupt.has_value()) return absl::OkStatus();
    store_->DropCorrupt(object_);
    return absl::DataLossError(absl::StrCat("object ", object_->key.key.ToHex(),
                                            ": checksum of granule ", *corrupt,
                                            " does not match; the object was dropped"));
  }

  void CopyTo(uint64_t offset, void* bytes, size_t count) override {
    copier_.Copy(offset, bytes, memory_.data() + offset, count, page::CopyMode::kCache);
  }

 private:
  HandleOwner* const store_;
  Object* const object_;
  const std::span<const std::byte> memory_;
  GranuleCopier copier_;
};

}  // namespace

std::unique_ptr<PutHandle> MakePutHandle(HandleOwner* store, std::unique_ptr<Object> reserved) {
  return std::make_unique<PutHandleImpl>(store, std::move(reserved));
}

std::unique_ptr<GetHandle> MakeGetHandle(HandleOwner* store, Object* object) {
  return std::make_unique<GetHandleImpl>(store, object);
}

}  // namespace varve::store
