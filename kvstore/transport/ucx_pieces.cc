#include "kvstore/transport/ucx_pieces.h"

#include <algorithm>

namespace varve::transport {
namespace {

// UCX's view of a list with copiers: a generic datatype, whose one element is the list and whose
// bytes it asks for in pieces of its own choice.
ucp_datatype_t ListType() {
  static const ucp_datatype_t type = [] {
    ucp_generic_dt_ops_t ops{};
    ops.start_pack = [](void*, const void* list, size_t) -> void* {
      return const_cast<void*>(list);
    };
    ops.start_unpack = [](void*, void* list, size_t) { return list; };
    ops.packed_size = [](void* list) { return static_cast<const PieceList*>(list)->bytes(); };
    ops.pack = [](void* list, size_t offset, void* to, size_t room) {
      const auto& pieces = *static_cast<const PieceList*>(list);
      const size_t bytes = std::min(room, pieces.bytes() - offset);
      pieces.Pack(offset, to, bytes);
      return bytes;
    };
    ops.unpack = [](void* list, size_t offset, const void* from, size_t bytes) {
      const auto& pieces = *static_cast<const PieceList*>(list);
      if (offset > pieces.bytes() || bytes > pieces.bytes() - offset)
        return UCS_ERR_MESSAGE_TRUNCATED;
      pieces.Unpack(offset, from, bytes);
      return UCS_OK;
    };
    ops.finish = [](void*) {};
    ucp_datatype_t created = 0;
    // Fails for want of memory alone; then the pieces travel without copiers.
    if (ucp_dt_create_generic(&ops, nullptr, &created) != UCS_OK) created = 0;
    return created;
  }();
  return type;
}

}  // namespace

void PieceList::Clear() {
  count_ = 0;
  bytes_ = 0;
  copied_ = false;
}

void PieceList::Add(void* data, size_t bytes, Copier* copier) {
  iov_[count_] = {data, bytes};
  copiers_[count_] = copier;
  ++count_;
  bytes_ += bytes;
  copied_ = copied_ || copier != nullptr;
}

template <typename CopyPiece>
void PieceList::Walk(size_t offset, size_t bytes, CopyPiece&& copy) const {
  for (size_t i = 0; bytes > 0; ++i) {
    if (offset >= iov_[i].length) {
      offset -= iov_[i].length;
      continue;
    }
    const size_t n = std::min(bytes, iov_[i].length - offset);
    copy(copiers_[i], static_cast<std::byte*>(iov_[i].buffer) + offset, n);
    offset = 0;
    bytes -= n;
  }
}

void PieceList::Pack(size_t offset, void* to, size_t bytes) const {
  auto* next = static_cast<std::byte*>(to);
  Walk(offset, bytes, [&next](Copier* copier, const std::byte* piece, size_t n) {
    CopyWith(copier, next, piece, n);
    next += n;
  });
}

void PieceList::Unpack(size_t offset, const void* from, size_t bytes) const {
  const auto* next = static_cast<const std::byte*>(from);
  Walk(offset, bytes, [&next](Copier* copier, std::byte* piece, size_t n) {
    CopyWith(copier, piece, next, n);
    next += n;
  });
}

PieceList::Buffer PieceList::Describe(ucp_request_param_t* param) const {
  if (count_ == 0) return {nullptr, 0};
  if (count_ == 1 && !copied_) return {iov_[0].buffer, iov_[0].length};
  param->op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
  if (copied_ && ListType() != 0) {
    param->datatype = ListType();
    return {const_cast<PieceList*>(this), 1};
  }
  param->datatype = UCP_DATATYPE_IOV;
  return {const_cast<ucp_dt_iov_t*>(iov_), count_};
}

}  // namespace varve::transport
