#include "kvstore/transport/transport.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace varve::transport {
namespace {

absl::Status CheckSegments(const std::vector<Segment>& segments) {
  for (const Segment& s : segments) {
    if (s.remote == nullptr) return absl::InvalidArgumentError("segment without a remote region");
    if (s.remote_offset > s.remote->bytes() ||
        s.local.size() > s.remote->bytes() - s.remote_offset) {
      return absl::OutOfRangeError(absl::StrCat("transfer of ", s.local.size(), " bytes at offset ",
                                                s.remote_offset, " leaves the remote region of ",
                                                s.remote->bytes(), " bytes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void CopyWith(Copier* copier, void* to, const void* from, size_t bytes) {
  if (copier != nullptr) return copier->Copy(to, from, bytes);
  if (bytes != 0) std::memcpy(to, from, bytes);  // an empty transfer may have no address
}

void Endpoint::Read(std::vector<Segment> segments, absl::Time deadline, Done done) {
  absl::Status status = CheckSegments(segments);
  if (!status.ok() || segments.empty()) return std::move(done)(std::move(status));
  DoRead(std::move(segments), deadline, std::move(done));
}

void Endpoint::Write(std::vector<Segment> segments, absl::Time deadline, Done done) {
  absl::Status status = CheckSegments(segments);
  if (!status.ok() || segments.empty()) return std::move(done)(std::move(status));
  DoWrite(std::move(segments), deadline, std::move(done));
}

}  // namespace varve::transport
