#include "client/registered_memory.h"

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::client {

absl::StatusOr<const RegisteredMemory*> Resolve(const Session* session, const Piece& piece,
                                                PieceName where) {
  const auto* memory = dynamic_cast<const RegisteredMemory*>(piece.memory);
  if (memory == nullptr || memory->session() != session) {
    return absl::InvalidArgumentError(absl::StrCat(
        where(), " is not memory of this client; use Client::Register or Client::Allocate"));
  }
  return memory;
}

absl::Status AppendRefs(const Session* session, std::span<const Piece> pieces, PieceName what,
                        google::protobuf::RepeatedPtrField<v1::MemoryRef>* refs) {
  refs->Reserve(refs->size() + static_cast<int>(pieces.size()));
  for (size_t i = 0; i < pieces.size(); ++i) {
    absl::StatusOr<const RegisteredMemory*> memory = Resolve(session, pieces[i], what);
    if (!memory.ok()) return base::Annotate(memory.status(), absl::StrCat("piece ", i));
    v1::MemoryRef* ref = refs->Add();
    ref->set_region_id((*memory)->region_id());
    ref->set_offset(pieces[i].offset);
    ref->set_bytes(pieces[i].bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::span<std::byte>>> Spans(const Session* session,
                                                        std::span<const Piece> pieces,
                                                        PieceName what) {
  if (pieces.empty())
    return absl::OutOfRangeError(absl::StrCat(what(), " must have at least 1 piece"));
  std::vector<std::span<std::byte>> spans;
  spans.reserve(pieces.size());
  for (const Piece& piece : pieces) {
    VARVE_ASSIGN_OR_RETURN(const RegisteredMemory* memory, Resolve(session, piece, what));
    if (piece.bytes == 0) {
      return absl::OutOfRangeError(
          absl::StrCat(what(), " has a piece of 0 bytes; allowed: at least 1"));
    }
    const size_t size = memory->bytes().size();
    if (piece.offset > size || piece.bytes > size - piece.offset) {
      return absl::OutOfRangeError(absl::StrCat(what(), " [", piece.offset, ", +", piece.bytes,
                                                ") lies outside its memory of ", size, " bytes"));
    }
    spans.push_back(memory->bytes().subspan(piece.offset, piece.bytes));
  }
  return spans;
}

}  // namespace varve::client
