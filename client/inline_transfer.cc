#include "client/inline_transfer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/convert.h"

namespace varve::client {
namespace {

constexpr size_t kDefaultChunkBytes = 1 << 20;

size_t ChunkBytes(const InlineChannel& channel) {
  const uint64_t limit = channel.session->limits.max_inline_chunk_bytes();
  return limit == 0 ? kDefaultChunkBytes : std::min<uint64_t>(limit, kDefaultChunkBytes);
}

// Deletes a call whose done has returned: it is in flight until its context is gone (in_flight.h).
template <typename Reactor>
void Leave(Reactor* reactor, InFlight* in_flight, InFlight::Call call) {
  if (call != 0) in_flight->Release(call);
  delete reactor;
  if (call != 0) in_flight->Remove(call);
}

// Writes one chunk after another and reads results as they come; deletes itself at the end.
class PutCall final : public grpc::ClientBidiReactor<v1::PutInlineRequest, v1::PutItemResult> {
 public:
  PutCall(const InlineChannel& channel, std::vector<InlinePut> items, InlineDone<PutResult> done)
      : channel_(channel), items_(std::move(items)), done_(std::move(done)) {}

  void Run() {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + channel_.deadline));
    call_ = channel_.in_flight->Add(&context_);
    if (call_ == 0) return End(ClosingError());
    channel_.stub->async()->PutInline(&context_, this);
    message_.set_session_id(channel_.session->session_id);
    StartRead(&result_);
    WriteNext();
    StartCall();
  }

  void OnWriteDone(bool ok) override {
    if (ok && item_ < items_.size()) WriteNext();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    results_.push_back(FromProto(result_));
    StartRead(&result_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) return End(FromGrpc(status));
    if (results_.size() != items_.size()) {
      return End(absl::InternalError(
          absl::StrCat("the store answered ", results_.size(), " of ", items_.size(), " values")));
    }
    End(std::move(results_));
  }

 private:
  void WriteNext() {
    FillMessage();
    const bool last = item_ == items_.size();
    StartWrite(&message_, last ? grpc::WriteOptions().set_last_message() : grpc::WriteOptions());
  }

  // The next chunk of the current item; moves on to the next item after its last chunk.
  void FillMessage() {
    const InlinePut& item = items_[item_];
    if (started_) {
      message_.Clear();
    }
    started_ = true;
    if (source_ == 0 && offset_ == 0) FillHeader(item);
    std::string* data = message_.mutable_data();
    const size_t chunk = ChunkBytes(channel_);
    while (data->size() < chunk && source_ < item.sources.size()) {
      const std::span<const std::byte> rest = item.sources[source_].subspan(offset_);
      const size_t take = std::min(rest.size(), chunk - data->size());
      data->append(reinterpret_cast<const char*>(rest.data()), take);
      offset_ += take;
      if (take == rest.size()) {
        ++source_;
        offset_ = 0;
      }
    }
    if (source_ < item.sources.size()) return;
    message_.set_last(true);
    ++item_;
    source_ = 0;
    offset_ = 0;
  }

  void FillHeader(const InlinePut& item) {
    size_t total = 0;
    for (std::span<const std::byte> source : item.sources) total += source.size();
    message_.set_key(item.key.bytes().data(), item.key.bytes().size());
    message_.set_total_bytes(total);
    if (item.layout.num_kv_heads != 0) *message_.mutable_layout() = ToProto(item.layout);
    message_.set_codec(item.codec);
    if (item.crc32c.has_value()) message_.set_crc32c(*item.crc32c);
    message_.set_prompt_tokens(item.prompt_tokens);
    message_.set_tokens(item.tokens);
    message_.set_ttl_ms(TtlMilliseconds(item.ttl));
    message_.set_parent(item.parent.bytes().data(), item.parent.bytes().size());
  }

  void End(absl::StatusOr<std::vector<PutResult>> results) {
    done_(std::move(results));
    Leave(this, channel_.in_flight, call_);
  }

  const InlineChannel channel_;
  const std::vector<InlinePut> items_;
  const InlineDone<PutResult> done_;
  grpc::ClientContext context_;
  InFlight::Call call_ = 0;
  v1::PutInlineRequest message_;  // of the write under way
  v1::PutItemResult result_;      // of the read under way
  std::vector<PutResult> results_;
  bool started_ = false;
  size_t item_ = 0;    // next to be written ...
  size_t source_ = 0;  // ... from here
  size_t offset_ = 0;
};

// Reads items in order, each whole before it is handed on; deletes itself at the end.
class GetCall final : public grpc::ClientReadReactor<v1::GetInlineReply> {
 public:
  GetCall(const InlineChannel& channel, const std::vector<InlineGet>& items, InlineValueSink sink,
          InlineDone<GetResult> done)
      : channel_(channel),
        num_items_(items.size()),
        sink_(std::move(sink)),
        done_(std::move(done)) {
    request_.set_session_id(channel.session->session_id);
    for (const InlineGet& item : items) {
      v1::GetInlineItem* wire = request_.add_items();
      wire->set_key(item.key.bytes().data(), item.key.bytes().size());
      *wire->mutable_range() = ToProto(item.range);
    }
  }

  void Run() {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + channel_.deadline));
    call_ = channel_.in_flight->Add(&context_);
    if (call_ == 0) return End(ClosingError());
    channel_.stub->async()->GetInline(&context_, &request_, this);
    StartRead(&reply_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    value_.append(reply_.data());
    if (reply_.last()) {
      GetResult result = FromProto(reply_.result());
      sink_(results_.size(), value_, &result);
      results_.push_back(std::move(result));
      value_.clear();
    }
    StartRead(&reply_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) return End(FromGrpc(status));
    if (results_.size() != num_items_) {
      return End(absl::InternalError(
          absl::StrCat("the store answered ", results_.size(), " of ", num_items_, " values")));
    }
    End(std::move(results_));
  }

 private:
  void End(absl::StatusOr<std::vector<GetResult>> results) {
    done_(std::move(results));
    Leave(this, channel_.in_flight, call_);
  }

  const InlineChannel channel_;
  const size_t num_items_;
  const InlineValueSink sink_;
  const InlineDone<GetResult> done_;
  grpc::ClientContext context_;
  InFlight::Call call_ = 0;
  v1::GetInlineRequest request_;
  v1::GetInlineReply reply_;  // of the read under way
  std::string value_;         // of the current item, so far
  std::vector<GetResult> results_;
};

}  // namespace

void PutOverStream(const InlineChannel& channel, std::vector<InlinePut> items,
                   InlineDone<PutResult> done) {
  if (items.empty()) return done(std::vector<PutResult>());
  (new PutCall(channel, std::move(items), std::move(done)))->Run();
}

void GetOverStream(const InlineChannel& channel, const std::vector<InlineGet>& items,
                   InlineValueSink sink, InlineDone<GetResult> done) {
  if (items.empty()) return done(std::vector<GetResult>());
  (new GetCall(channel, items, std::move(sink), std::move(done)))->Run();
}

}  // namespace varve::client
