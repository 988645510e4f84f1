// Memory handles of a client, and their pieces on the wire.
#pragma once

#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/session.h"
#include "kvstore/transport/transport.h"

namespace varve::client {

struct FreeDeleter {
  void operator()(std::byte* p) const { std::free(p); }
};
using OwnBuffer = std::unique_ptr<std::byte, FreeDeleter>;

// Memory that the session's store may read and write (region set), or that only this client copies
// from and into (inline only). Destroying it makes the store forget it before the transport does.
class RegisteredMemory final : public Memory {
 public:
  RegisteredMemory(Session* session, uint64_t region_id, std::unique_ptr<transport::Region> region)
      : session_(session),
        region_id_(region_id),
        bytes_(region->memory()),
        region_(std::move(region)) {}
  RegisteredMemory(Session* session, std::span<std::byte> bytes, OwnBuffer own)
      : session_(session), bytes_(bytes), own_(std::move(own)) {}
  ~RegisteredMemory() override {
    if (region_ != nullptr) session_->RemoveRegion(region_id_);
  }

  std::span<std::byte> bytes() const override { return bytes_; }
  uint64_t region_id() const { return region_id_; }
  const Session* session() const { return session_; }

 private:
  Session* const session_;
  const uint64_t region_id_ = 0;
  const std::span<std::byte> bytes_;
  const std::unique_ptr<transport::Region> region_;
  const OwnBuffer own_;
};

// What errors call pieces: "items[3].sources". Asked only when there is one.
using PieceName = absl::FunctionRef<std::string()>;

// The handle behind a piece. INVALID_ARGUMENT when it is null or belongs to another client; `where`
// names the piece.
absl::StatusOr<const RegisteredMemory*> Resolve(const Session* session, const Piece& piece,
                                                PieceName where);

// Appends the pieces to `refs` (a repeated MemoryRef).
absl::Status AppendRefs(const Session* session, std::span<const Piece> pieces, PieceName what,
                        google::protobuf::RepeatedPtrField<v1::MemoryRef>* refs);

// For a client that copies the bytes itself: the pieces as spans. OUT_OF_RANGE when one lies
// outside its memory.
absl::StatusOr<std::vector<std::span<std::byte>>> Spans(const Session* session,
                                                        std::span<const Piece> pieces,
                                                        PieceName what);

}  // namespace varve::client
