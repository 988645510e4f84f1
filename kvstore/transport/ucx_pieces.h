// The local memory of one message, in pieces, and how UCX gets at it.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>

#include "kvstore/transport/transport.h"
#include "kvstore/transport/ucx_protocol.h"

namespace varve::transport {

class PieceList {
 public:
  // What UCX's calls want for a buffer.
  struct Buffer {
    void* address;
    size_t count;
  };

  void Clear();
  // REQUIRES: fewer than kMaxPieces so far. copier: null for memcpy.
  void Add(void* data, size_t bytes, Copier* copier);

  size_t count() const { return count_; }
  size_t bytes() const { return bytes_; }
  const ucp_dt_iov_t* iov() const { return iov_; }

  // Copies the bytes from `offset` on to or from a contiguous buffer. REQUIRES: they are in the
  // list.
  void Pack(size_t offset, void* to, size_t bytes) const;
  void Unpack(size_t offset, const void* from, size_t bytes) const;

  // Describes the pieces to an operation, until the end of which the list must live unchanged. UCX
  // copies pieces without copiers itself, or has them copied by the kernel or a device.
  Buffer Describe(ucp_request_param_t* param) const;

 private:
  template <typename CopyPiece>
  void Walk(size_t offset, size_t bytes, CopyPiece&& copy) const;

  ucp_dt_iov_t iov_[kMaxPieces];
  Copier* copiers_[kMaxPieces];
  size_t count_ = 0;
  size_t bytes_ = 0;
  bool copied_ = false;  // some piece has a copier
};

}  // namespace varve::transport
