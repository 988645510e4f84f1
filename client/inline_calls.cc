// Calls whose values travel inline: by wish (PutInline, GetInline) or because the client has no
// transport.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/client_impl.h"
#include "client/waiter.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

// Copies a value into the destinations of its item; a value that does not fit turns the hit into a
// bad item.
void Deliver(const std::string& value, const std::vector<std::span<std::byte>>& destinations,
             GetResult* result) {
  if (!result->hit) return;
  size_t room = 0;
  for (std::span<std::byte> destination : destinations) room += destination.size();
  if (room < value.size()) {
    *result = {.message = absl::StrCat("destinations hold ", room, " bytes, the range has ",
                                       value.size())};
    return;
  }
  size_t offset = 0;
  for (std::span<std::byte> destination : destinations) {
    const size_t take = std::min(destination.size(), value.size() - offset);
    if (take > 0) std::memcpy(destination.data(), value.data() + offset, take);
    offset += take;
  }
}

// Sends only the good items: `bad` maps the others to their results, in order of the items.
template <typename Result>
std::vector<Result> Merge(std::vector<std::optional<Result>> bad, std::vector<Result> good) {
  std::vector<Result> merged;
  merged.reserve(bad.size());
  auto next = good.begin();
  for (std::optional<Result>& result : bad)
    merged.push_back(result.has_value() ? *std::move(result) : std::move(*next++));
  return merged;
}

// A piece outside its memory spoils its item; memory of another client spoils the call.
bool OutOfBounds(const absl::Status& status) {
  return status.code() == absl::StatusCode::kOutOfRange;
}

}  // namespace

template <typename Result>
void ClientImpl::InSession(InlineStart<Result> start, InlineDone<Result> done, bool retried) {
  session_.Acquire([this, start = std::move(start), done = std::move(done),
                    retried](absl::StatusOr<Session::OpenedPtr> session) {
    if (!session.ok()) return done(Explain(session.status()));
    const uint64_t generation = (*session)->generation;
    const InlineChannel channel{stub_.get(), &in_flight_, *session, transfer_call_deadline()};
    start(channel,
          [this, start, done, retried, generation](absl::StatusOr<std::vector<Result>> results) {
            const bool lost = results.status().code() == absl::StatusCode::kUnauthenticated;
            if (lost) session_.Lost(generation);
            if (lost && !retried) return InSession<Result>(start, done, true);
            if (!results.ok()) return done(Explain(results.status()));
            done(std::move(results));
          });
  });
}

// Everything is started on the caller's thread, whose CallDeadline so counts.
template <typename Result>
absl::StatusOr<std::vector<Result>> ClientImpl::InSession(const InlineStart<Result>& start) {
  for (bool retried = false;; retried = true) {
    absl::StatusOr<Session::OpenedPtr> session = session_.Acquire();
    if (!session.ok()) return Explain(session.status());
    Waiter<absl::StatusOr<std::vector<Result>>> waiter;
    start({stub_.get(), &in_flight_, *session, transfer_call_deadline()}, waiter.Callback());
    absl::StatusOr<std::vector<Result>> results = waiter.Take();
    if (results.ok()) return results;
    const bool lost = results.status().code() == absl::StatusCode::kUnauthenticated;
    if (lost) session_.Lost((*session)->generation);
    if (!lost || retried) return Explain(results.status());
  }
}

absl::StatusOr<ClientImpl::InlineBatch<PutResult>> ClientImpl::BatchInline(
    std::span<const PutItem> items) const {
  std::vector<InlinePut> puts;
  std::vector<std::optional<PutResult>> bad(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    auto spans =
        Spans(&session_, items[i].sources, [i] { return absl::StrCat("items[", i, "].sources"); });
    if (!spans.ok() && !OutOfBounds(spans.status())) return spans.status();
    if (!spans.ok()) {
      bad[i] = PutResult{PutOutcome::kInvalid, std::string(spans.status().message())};
      continue;
    }
    puts.push_back({items[i].key,
                    {spans->begin(), spans->end()},
                    items[i].layout,
                    items[i].codec,
                    items[i].crc32c,
                    items[i].prompt_tokens,
                    items[i].tokens,
                    items[i].ttl,
                    items[i].parent});
  }
  return InlineBatch<PutResult>{
      [puts = std::move(puts)](const InlineChannel& channel, InlineDone<PutResult> then) {
        PutOverStream(channel, puts, std::move(then));
      },
      std::move(bad)};
}

absl::StatusOr<ClientImpl::InlineBatch<GetResult>> ClientImpl::BatchInline(
    std::span<const GetItem> items) const {
  std::vector<InlineGet> gets;
  std::vector<std::vector<std::span<std::byte>>> destinations;
  std::vector<std::optional<GetResult>> bad(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    auto spans = Spans(&session_, items[i].destinations,
                       [i] { return absl::StrCat("items[", i, "].destinations"); });
    if (!spans.ok() && !OutOfBounds(spans.status())) return spans.status();
    if (!spans.ok()) {
      bad[i] = GetResult{.message = std::string(spans.status().message())};
      continue;
    }
    gets.push_back({items[i].key, items[i].range});
    destinations.push_back(*std::move(spans));
  }
  InlineValueSink sink = [destinations = std::move(destinations)](
                             size_t item, const std::string& value, GetResult* result) {
    if (item < destinations.size()) Deliver(value, destinations[item], result);
  };
  return InlineBatch<GetResult>{[gets = std::move(gets), sink = std::move(sink)](
                                    const InlineChannel& channel, InlineDone<GetResult> then) {
                                  GetOverStream(channel, gets, sink, std::move(then));
                                },
                                std::move(bad)};
}

template <typename Result, typename Item>
void ClientImpl::InlineAsync(std::span<const Item> items, InlineDone<Result> done) {
  absl::StatusOr<InlineBatch<Result>> batch = BatchInline(items);
  if (!batch.ok()) return done(batch.status());
  InSession<Result>(
      std::move(batch->start),
      [bad = std::move(batch->bad),
       done = std::move(done)](absl::StatusOr<std::vector<Result>> results) {
        if (!results.ok()) return done(std::move(results));
        done(Merge(bad, *std::move(results)));
      },
      false);
}
template void ClientImpl::InlineAsync(std::span<const PutItem>, InlineDone<PutResult>);
template void ClientImpl::InlineAsync(std::span<const GetItem>, InlineDone<GetResult>);

template <typename Result, typename Item>
absl::StatusOr<std::vector<Result>> ClientImpl::Inline(std::span<const Item> items) {
  VARVE_ASSIGN_OR_RETURN(InlineBatch<Result> batch, BatchInline(items));
  VARVE_ASSIGN_OR_RETURN(std::vector<Result> results, InSession<Result>(batch.start));
  return Merge(std::move(batch.bad), std::move(results));
}
template absl::StatusOr<std::vector<PutResult>> ClientImpl::Inline(std::span<const PutItem>);
template absl::StatusOr<std::vector<GetResult>> ClientImpl::Inline(std::span<const GetItem>);

absl::StatusOr<PutResult> ClientImpl::PutInline(const page::ObjectKey& key,
                                                std::span<const std::byte> value,
                                                const ValueInfo& info) {
  const auto start = [&](const InlineChannel& channel, InlineDone<PutResult> then) {
    PutOverStream(channel,
                  {InlinePut{.key = key,
                             .sources = {value},
                             .layout = info.layout,
                             .prompt_tokens = info.prompt_tokens,
                             .tokens = info.tokens,
                             .ttl = info.ttl,
                             .parent = info.parent}},
                  std::move(then));
  };
  VARVE_ASSIGN_OR_RETURN(std::vector<PutResult> results, InSession<PutResult>(start));
  return std::move(results.front());
}

absl::StatusOr<GetResult> ClientImpl::GetInline(const page::ObjectKey& key,
                                                const page::ObjectRange& range,
                                                std::string* value) {
  std::string received;
  const auto start = [&](const InlineChannel& channel, InlineDone<GetResult> then) {
    GetOverStream(
        channel, {InlineGet{key, range}},
        [&received](size_t, const std::string& bytes, GetResult*) { received = bytes; },
        std::move(then));
  };
  VARVE_ASSIGN_OR_RETURN(std::vector<GetResult> results, InSession<GetResult>(start));
  if (results.front().hit) *value = std::move(received);
  return std::move(results.front());
}

}  // namespace varve::client
