#include "kvstore/recall/shared_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/row_memory.h"
#include "kvstore/base/status.h"

namespace varve::recall {
bool ByteBudget::Take(uint64_t bytes) {
  uint64_t used = used_bytes_.load(std::memory_order_relaxed);
  do {
    if (bytes > max_bytes_ - used) return false;
  } while (!used_bytes_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  return true;
}

absl::Status ByteBudget::Refusal(uint64_t bytes) const {
  return absl::ResourceExhaustedError(absl::StrCat(bytes, " more bytes of ", what_,
                                                   " do not fit: ", used_bytes(), " of ",
                                                   max_bytes_, " bytes (", setting_, ") are used"));
}

// ---- chunks

absl::StatusOr<std::shared_ptr<RowChunk>> RowChunk::Create(const RowFormat& format,
                                                           uint32_t capacity, ByteBudget* budget) {
  const size_t bytes = format.row_bytes() * capacity;
  if (budget != nullptr && !budget->Take(bytes)) {
    return budget->Refusal(bytes);
  }
  std::byte* const memory = base::AllocateRows(bytes);
  if (memory == nullptr) {
    if (budget != nullptr) budget->Give(bytes);
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes of rows"));
  }
  return std::shared_ptr<RowChunk>(new RowChunk(format, capacity, memory, budget));
}

RowChunk::RowChunk(const RowFormat& format, uint32_t capacity, std::byte* memory,
                   ByteBudget* budget)
    : head_stride_(format.head_bytes * capacity),
      bytes_(format.row_bytes() * capacity),
      memory_(memory),
      budget_(budget) {}

RowChunk::~RowChunk() {
  base::FreeRows(memory_);
  if (budget_ != nullptr) budget_->Give(bytes_);
}

// ---- lists

// Chunks begin at rows 0, 16, 32, 64, 128, 256, 512 and then every 512.
RowList::Place RowList::PlaceOf(uint32_t row) {
  constexpr uint32_t kMin = RowChunk::kMinRows;
  constexpr uint32_t kMax = RowChunk::kMaxRows;
  if (row < kMin) return {0, row, kMin};
  if (row < kMax) {
    const uint32_t begin = std::bit_floor(row);
    return {static_cast<uint32_t>(std::bit_width(begin / kMin)), row - begin, begin};
  }
  constexpr uint32_t kGrowing = std::bit_width(kMax / kMin);
  return {kGrowing - 1 + row / kMax, row % kMax, kMax};
}

RowList RowList::Prefix(uint32_t rows) const {
  RowList prefix(format_);
  prefix.rows_ = std::min(rows, rows_);
  const size_t chunks = prefix.rows_ == 0 ? 0 : PlaceOf(prefix.rows_ - 1).chunk + 1;
  prefix.chunks_.assign(chunks_.begin(), chunks_.begin() + static_cast<ptrdiff_t>(chunks));
  return prefix;
}

absl::Status RowList::MakeWritable(const Place& place, uint32_t count, ByteBudget* budget) {
  const uint32_t end = place.row + count;
  if (place.chunk < chunks_.size() && chunks_[place.chunk]->Claim(place.row, end)) {
    return absl::OkStatus();
  }
  VARVE_ASSIGN_OR_RETURN(std::shared_ptr<RowChunk> chunk,
                         RowChunk::Create(format_, place.capacity, budget));
  chunk->Claim(0, end);
  if (place.chunk == chunks_.size()) {
    chunks_.push_back(std::move(chunk));
    return absl::OkStatus();
  }
  for (uint32_t h = 0; h < format_.heads; ++h) {
    std::memcpy(chunk->mutable_head(h), chunks_[place.chunk]->head(h),
                place.row * format_.head_bytes);
  }
  chunks_[place.chunk] = std::move(chunk);
  return absl::OkStatus();
}

absl::StatusOr<RowList> RowList::Append(const std::byte* rows, uint32_t count,
                                        ByteBudget* budget) const {
  RowList next = *this;
  const size_t head_bytes = format_.head_bytes;
  while (count > 0) {
    const Place place = PlaceOf(next.rows_);
    const uint32_t here = std::min(count, place.capacity - place.row);
    VARVE_RETURN_IF_ERROR(next.MakeWritable(place, here, budget));
    for (uint32_t i = 0; i < here; ++i) {
      for (uint32_t h = 0; h < format_.heads; ++h, rows += head_bytes) {
        std::byte* to = next.chunks_[place.chunk]->mutable_head(h);
        std::memcpy(to + (place.row + i) * head_bytes, rows, head_bytes);
      }
    }
    next.rows_ += here;
    count -= here;
  }
  return next;
}

void RowList::Read(uint32_t first, uint32_t count, std::byte* out) const {
  const size_t head_bytes = format_.head_bytes;
  ForEachPiece(first, count, [&](const RowChunk& chunk, uint32_t row, uint32_t rows, uint32_t) {
    for (uint32_t i = row; i < row + rows; ++i) {
      for (uint32_t h = 0; h < format_.heads; ++h, out += head_bytes) {
        std::memcpy(out, chunk.head(h) + i * head_bytes, head_bytes);
      }
    }
  });
}

bool RowList::Equals(uint32_t first, uint32_t count, const std::byte* rows) const {
  const size_t head_bytes = format_.head_bytes;
  bool equal = true;
  ForEachPiece(first, count, [&](const RowChunk& chunk, uint32_t row, uint32_t n, uint32_t) {
    for (uint32_t i = row; i < row + n; ++i) {
      for (uint32_t h = 0; h < format_.heads; ++h, rows += head_bytes) {
        equal = equal && std::memcmp(rows, chunk.head(h) + i * head_bytes, head_bytes) == 0;
      }
    }
  });
  return equal;
}

}  // namespace varve::recall
