#include "kvstore/tier/uring_registry.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>

#include "kvstore/base/log.h"

namespace varve::tier {
int UringRegistry::Table::Take(io_uring* ring) {
  if (!made_) {
    made_ = true;
    if (const int error = make_(ring, slots_); error < 0) {
      Refused(-error);
    } else {
      for (unsigned i = slots_; i > 0; --i) free_.push_back(static_cast<int>(i - 1));
    }
  }
  if (free_.empty()) return -1;
  const int index = free_.back();
  free_.pop_back();
  return index;
}

void UringRegistry::Table::Refused(int error) {
  // It has gone since it was added, as when a start is refused: nothing to tell anybody.
  const bool gone = error == EFAULT || error == EBADF;
  if (refused_ || gone) return;
  refused_ = true;
  base::LogWarning("io_uring works with ", what_,
                   " that the kernel does not register: ", std::strerror(error),
                   error == ENOMEM ? " (ulimit -l)" : "");
}

void UringRegistry::AddBuffer(std::span<std::byte> buffer) {
  RemoveBuffer(buffer);
  while (!buffer.empty()) {
    const std::span<std::byte> piece = buffer.first(std::min(buffer.size(), piece_bytes_));
    AddPiece(piece);
    buffer = buffer.subspan(piece.size());
  }
}

void UringRegistry::AddPiece(std::span<std::byte> piece) {
  const int index = buffer_table_.Take(ring_);
  if (index < 0) return;
  if (const int error = SetBuffer(index, piece); error != 0) {
    buffer_table_.Refused(error);
    buffer_table_.Give(index);
    return;
  }
  pieces_[piece.data()] = {piece.size(), index};
}

void UringRegistry::RemoveBuffer(std::span<std::byte> buffer) {
  auto it = pieces_.lower_bound(buffer.data());
  while (it != pieces_.end() && std::less<>()(it->first, buffer.data() + buffer.size())) {
    (void)SetBuffer(it->second.index, {});
    buffer_table_.Give(it->second.index);
    it = pieces_.erase(it);
  }
}

void UringRegistry::AddFile(int fd) {
  RemoveFile(fd);
  const int index = file_table_.Take(ring_);
  if (index < 0) return;
  if (const int error = SetFile(index, fd); error != 0) {
    file_table_.Refused(error);
    file_table_.Give(index);
    return;
  }
  files_[fd] = index;
}

void UringRegistry::RemoveFile(int fd) {
  const auto it = files_.find(fd);
  if (it == files_.end()) return;
  (void)SetFile(it->second, -1);
  file_table_.Give(it->second);
  files_.erase(it);
}

int UringRegistry::BufferOf(const std::byte* data, size_t bytes) const {
  auto it = pieces_.upper_bound(data);
  if (it == pieces_.begin()) return -1;
  --it;
  const auto begin = static_cast<size_t>(data - it->first);
  return begin <= it->second.bytes && bytes <= it->second.bytes - begin ? it->second.index : -1;
}

int UringRegistry::FileOf(int fd) const {
  const auto it = files_.find(fd);
  return it == files_.end() ? -1 : it->second;
}

int UringRegistry::SetBuffer(int index, std::span<std::byte> memory) {
  const iovec memory_vector{memory.data(), memory.size()};
  const __u64 no_tag = 0;
  const int set = io_uring_register_buffers_update_tag(ring_, static_cast<unsigned>(index),
                                                       &memory_vector, &no_tag, 1);
  return set < 0 ? -set : 0;
}

int UringRegistry::SetFile(int index, int fd) {
  const int set = io_uring_register_files_update(ring_, static_cast<unsigned>(index), &fd, 1);
  return set < 0 ? -set : 0;
}

}  // namespace varve::tier
