// Calls on objects: by keys and by registered memory.
#include <algorithm>
#include <iterator>
#include <optional>

#include "absl/strings/str_cat.h"
#include "client/arena_message.h"
#include "client/client_impl.h"
#include "client/prefetch_calls.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

constexpr absl::Duration kLongestTtl = absl::Hours(24 * 49);  // in 32 bits of milliseconds

template <typename Request>
void AddKeys(std::span<const page::ObjectKey> keys, Request* request) {
  request->mutable_keys()->Reserve(static_cast<int>(keys.size()));
  for (const page::ObjectKey& key : keys) request->add_keys(key.bytes().data(), key.bytes().size());
}

absl::Status CountError(size_t answered, size_t asked) {
  return absl::InternalError(
      absl::StrCat("the store answered ", answered, " of ", asked, " items"));
}

absl::StatusOr<std::vector<PutResult>> Results(const v1::PutReply& reply, size_t asked) {
  if (static_cast<size_t>(reply.results_size()) != asked)
    return CountError(reply.results_size(), asked);
  std::vector<PutResult> results;
  results.reserve(asked);
  for (const v1::PutItemResult& result : reply.results()) results.push_back(FromProto(result));
  return results;
}

absl::StatusOr<std::vector<GetResult>> Results(const v1::GetReply& reply, size_t asked) {
  if (static_cast<size_t>(reply.results_size()) != asked)
    return CountError(reply.results_size(), asked);
  std::vector<GetResult> results;
  results.reserve(asked);
  for (const v1::GetItemResult& result : reply.results()) results.push_back(FromProto(result));
  return results;
}

// Batches of at most `limit`, one after the other; stops at the first error.
template <typename Result, typename Item, typename Batch>
absl::StatusOr<std::vector<Result>> InBatches(std::span<const Item> items, size_t limit,
                                              Batch batch) {
  std::vector<Result> results;
  for (size_t begin = 0; begin < items.size();) {
    const size_t count = std::min(limit, items.size() - begin);
    VARVE_ASSIGN_OR_RETURN(std::vector<Result> part, batch(items.subspan(begin, count)));
    if (count == items.size()) return part;
    results.insert(results.end(), std::make_move_iterator(part.begin()),
                   std::make_move_iterator(part.end()));
    begin += count;
  }
  return results;
}

// The same for callbacks: `start` runs the first `limit` items, then the rest.
template <typename Result, typename Item, typename Start>
void SplitAsync(std::vector<Item> items, size_t limit, Start start,
                std::function<void(absl::StatusOr<std::vector<Result>>)> done) {
  std::vector<Item> rest(std::make_move_iterator(items.begin() + limit),
                         std::make_move_iterator(items.end()));
  items.resize(limit);
  auto then_rest = [start, rest = std::move(rest),
                    done = std::move(done)](absl::StatusOr<std::vector<Result>> first) mutable {
    if (!first.ok()) return done(std::move(first));
    start(std::move(rest), [first = *std::move(first), done = std::move(done)](
                               absl::StatusOr<std::vector<Result>> second) mutable {
      if (!second.ok()) return done(std::move(second));
      std::move(second->begin(), second->end(), std::back_inserter(first));
      done(std::move(first));
    });
  };
  start(std::move(items), std::move(then_rest));
}

}  // namespace

// ---- by keys

template <typename Request, typename Reply>
absl::StatusOr<std::vector<bool>> ClientImpl::CallForKeys(
    Method<Request, Reply> method, std::span<const page::ObjectKey> keys, Request request,
    const google::protobuf::RepeatedField<bool>& (Reply::*results)() const) {
  return InBatches<bool>(
      keys, batch_limit(),
      [&](std::span<const page::ObjectKey> batch) -> absl::StatusOr<std::vector<bool>> {
        request.clear_keys();
        AddKeys(batch, &request);
        Reply reply;
        VARVE_RETURN_IF_ERROR(Call(method, request, &reply, options_.call_timeout));
        const google::protobuf::RepeatedField<bool>& answers = (reply.*results)();
        if (static_cast<size_t>(answers.size()) != batch.size())
          return CountError(answers.size(), batch.size());
        return std::vector<bool>(answers.begin(), answers.end());
      });
}

absl::StatusOr<std::vector<bool>> ClientImpl::Exists(std::span<const page::ObjectKey> keys) {
  return CallForKeys<v1::ExistsRequest, v1::ExistsReply>(&v1::Store::StubInterface::Exists, keys,
                                                         {}, &v1::ExistsReply::exists);
}

absl::StatusOr<uint32_t> ClientImpl::LongestPrefix(std::span<const page::ObjectKey> keys) {
  uint32_t present = 0;
  while (present < keys.size()) {
    const std::span<const page::ObjectKey> batch =
        keys.subspan(present, std::min(batch_limit(), keys.size() - present));
    v1::LongestPrefixRequest request;
    AddKeys(batch, &request);
    v1::LongestPrefixReply reply;
    VARVE_RETURN_IF_ERROR(
        Call(&v1::Store::StubInterface::LongestPrefix, request, &reply, options_.call_timeout));
    present += reply.present();
    if (reply.present() < batch.size()) break;
  }
  return present;
}

absl::StatusOr<std::vector<bool>> ClientImpl::Remove(std::span<const page::ObjectKey> keys,
                                                     bool force) {
  v1::RemoveRequest request;
  request.set_force(force);
  return CallForKeys<v1::RemoveRequest, v1::RemoveReply>(
      &v1::Store::StubInterface::Remove, keys, std::move(request), &v1::RemoveReply::removed);
}

absl::StatusOr<std::vector<bool>> ClientImpl::Pin(std::span<const page::ObjectKey> keys,
                                                  absl::Duration ttl) {
  v1::PinRequest request;
  if (ttl != absl::InfiniteDuration()) {
    if (ttl < absl::Milliseconds(1) || ttl > kLongestTtl) {
      return absl::InvalidArgumentError(absl::StrCat(
          "ttl ", absl::FormatDuration(ttl), " is out of range: 1ms .. 49 days, or infinite"));
    }
    request.set_ttl_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(ttl)));
  }
  return CallForKeys<v1::PinRequest, v1::PinReply>(&v1::Store::StubInterface::Pin, keys,
                                                   std::move(request), &v1::PinReply::done);
}

absl::StatusOr<std::vector<bool>> ClientImpl::Unpin(std::span<const page::ObjectKey> keys) {
  v1::PinRequest request;
  request.set_unpin(true);
  return CallForKeys<v1::PinRequest, v1::PinReply>(&v1::Store::StubInterface::Pin, keys,
                                                   std::move(request), &v1::PinReply::done);
}

absl::StatusOr<ObjectPage> ClientImpl::List(std::string_view key_prefix, uint32_t page_size,
                                            const std::string& page_token) {
  v1::ListRequest request;
  request.set_key_prefix(key_prefix.data(), key_prefix.size());
  request.set_page_size(page_size);
  request.set_page_token(page_token);
  v1::ListReply reply;
  VARVE_RETURN_IF_ERROR(
      Call(&v1::Store::StubInterface::List, request, &reply, options_.call_timeout));
  ObjectPage page;
  page.objects.reserve(reply.objects_size());
  for (const v1::ObjectInfo& info : reply.objects()) page.objects.push_back(FromProto(info));
  page.next_page_token = reply.next_page_token();
  return page;
}

absl::StatusOr<std::vector<PrefetchOutcome>> ClientImpl::Prefetch(
    std::span<const page::ObjectKey> keys) {
  return InBatches<PrefetchOutcome>(
      keys, batch_limit(),
      [&](std::span<const page::ObjectKey> batch) -> absl::StatusOr<std::vector<PrefetchOutcome>> {
        v1::PrefetchRequest request;
        AddKeys(batch, &request);
        v1::PrefetchReply reply;
        VARVE_RETURN_IF_ERROR(
            Call(&v1::Store::StubInterface::Prefetch, request, &reply, options_.call_timeout));
        if (static_cast<size_t>(reply.results_size()) != batch.size())
          return CountError(reply.results_size(), batch.size());
        std::vector<PrefetchOutcome> outcomes;
        for (const int result : reply.results()) {
          outcomes.push_back(FromProto(static_cast<v1::PrefetchResult>(result)));
        }
        return outcomes;
      });
}

// ---- by registered memory

absl::Status ClientImpl::FillRequest(std::span<const PutItem> items,
                                     v1::PutRequest& request) const {
  request.set_deadline_ms(transfer_deadline_ms());
  request.mutable_items()->Reserve(static_cast<int>(items.size()));
  for (size_t i = 0; i < items.size(); ++i) {
    const PutItem& item = items[i];
    v1::PutItem* wire = request.add_items();
    wire->set_key(item.key.bytes().data(), item.key.bytes().size());
    VARVE_RETURN_IF_ERROR(AppendRefs(
        &session_, item.sources, [i] { return absl::StrCat("items[", i, "].sources"); },
        wire->mutable_sources()));
    if (item.layout.num_kv_heads != 0) *wire->mutable_layout() = ToProto(item.layout);
    wire->set_codec(item.codec);
    if (item.crc32c.has_value()) wire->set_crc32c(*item.crc32c);
    wire->set_prompt_tokens(item.prompt_tokens);
    wire->set_tokens(item.tokens);
    wire->set_ttl_ms(TtlMilliseconds(item.ttl));
    wire->set_parent(item.parent.bytes().data(), item.parent.bytes().size());
  }
  return absl::OkStatus();
}

absl::Status ClientImpl::FillRequest(std::span<const GetItem> items,
                                     v1::GetRequest& request) const {
  request.set_deadline_ms(transfer_deadline_ms());
  request.mutable_items()->Reserve(static_cast<int>(items.size()));
  for (size_t i = 0; i < items.size(); ++i) {
    v1::GetItem* wire = request.add_items();
    wire->set_key(items[i].key.bytes().data(), items[i].key.bytes().size());
    if (!items[i].range.whole()) *wire->mutable_range() = ToProto(items[i].range);
    VARVE_RETURN_IF_ERROR(AppendRefs(
        &session_, items[i].destinations,
        [i] { return absl::StrCat("items[", i, "].destinations"); }, wire->mutable_destinations()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PutResult>> ClientImpl::Put(std::span<const PutItem> items) {
  return InBatches<PutResult>(items, batch_limit(),
                              [&](std::span<const PutItem> batch) { return PutBatch(batch); });
}

absl::StatusOr<std::vector<PutResult>> ClientImpl::PutBatch(std::span<const PutItem> items) {
  if (inline_only()) return Inline<PutResult>(items);
  const auto request = MakeArenaMessage<v1::PutRequest>();
  VARVE_RETURN_IF_ERROR(FillRequest(items, *request));
  const auto reply = MakeArenaMessage<v1::PutReply>();
  VARVE_RETURN_IF_ERROR(
      Call(&v1::Store::StubInterface::Put, *request, reply.get(), transfer_call_deadline()));
  return Results(*reply, items.size());
}

absl::StatusOr<std::vector<GetResult>> ClientImpl::Get(std::span<const GetItem> items) {
  return InBatches<GetResult>(items, batch_limit(),
                              [&](std::span<const GetItem> batch) { return GetBatch(batch); });
}

absl::StatusOr<std::vector<GetResult>> ClientImpl::GetBatch(std::span<const GetItem> items) {
  if (inline_only()) return Inline<GetResult>(items);
  const auto request = MakeArenaMessage<v1::GetRequest>();
  VARVE_RETURN_IF_ERROR(FillRequest(items, *request));
  request->set_prefetch(PrefetchCalls::On());
  const auto reply = MakeArenaMessage<v1::GetReply>();
  VARVE_RETURN_IF_ERROR(
      Call(&v1::Store::StubInterface::Get, *request, reply.get(), transfer_call_deadline()));
  return Results(*reply, items.size());
}

template <typename Request, typename Reply>
void ClientImpl::CallAsync(std::shared_ptr<Request> request, AsyncStart<Request, Reply> start,
                           std::function<void(absl::Status, const Reply&)> done, bool retried) {
  session_.Acquire([this, request, start, done = std::move(done),
                    retried](absl::StatusOr<Session::OpenedPtr> session) {
    if (!session.ok()) return done(Explain(session.status()), Reply());
    struct State {
      std::optional<grpc::ClientContext> context{std::in_place};
      const std::shared_ptr<Reply> reply = MakeArenaMessage<Reply>();
    };
    auto state = std::make_shared<State>();
    request->set_session_id((*session)->session_id);
    state->context->set_deadline(absl::ToChronoTime(absl::Now() + transfer_call_deadline()));
    const InFlight::Call call = in_flight_.Add(&*state->context);
    if (call == 0) return done(ClosingError(), Reply());
    const uint64_t generation = (*session)->generation;
    start(
        stub_.get(), &*state->context, request.get(), state->reply.get(),
        [this, request, start, done, retried, state, generation, call](const grpc::Status& status) {
          const bool lost = status.error_code() == grpc::StatusCode::UNAUTHENTICATED;
          if (lost) session_.Lost(generation);
          if (lost && !retried) {
            CallAsync(request, start, done, true);
          } else {
            done(Explain(FromGrpc(status)), *state->reply);
          }
          in_flight_.Release(call);
          state->context.reset();
          in_flight_.Remove(call);
        });
  });
}

void ClientImpl::PutAsync(std::vector<PutItem> items,
                          std::function<void(absl::StatusOr<std::vector<PutResult>>)> done) {
  if (items.empty()) return done(std::vector<PutResult>());
  if (items.size() > batch_limit()) {
    return SplitAsync<PutResult>(
        std::move(items), batch_limit(),
        [this](std::vector<PutItem> part, auto then) {
          PutAsync(std::move(part), std::move(then));
        },
        std::move(done));
  }
  if (inline_only())
    return InlineAsync<PutResult>(std::span<const PutItem>(items), std::move(done));
  auto request = MakeArenaMessage<v1::PutRequest>();
  if (absl::Status filled = FillRequest(items, *request); !filled.ok()) return done(filled);
  CallAsync<v1::PutRequest, v1::PutReply>(
      std::move(request),
      [](v1::Store::Stub* stub, grpc::ClientContext* context, const v1::PutRequest* put,
         v1::PutReply* reply, std::function<void(grpc::Status)> ended) {
        stub->async()->Put(context, put, reply, std::move(ended));
      },
      [done = std::move(done), asked = items.size()](const absl::Status& status,
                                                     const v1::PutReply& reply) {
        if (!status.ok()) return done(status);
        done(Results(reply, asked));
      },
      false);
}

void ClientImpl::GetAsync(std::vector<GetItem> items,
                          std::function<void(absl::StatusOr<std::vector<GetResult>>)> done) {
  if (items.empty()) return done(std::vector<GetResult>());
  if (items.size() > batch_limit()) {
    return SplitAsync<GetResult>(
        std::move(items), batch_limit(),
        [this](std::vector<GetItem> part, auto then) {
          GetAsync(std::move(part), std::move(then));
        },
        std::move(done));
  }
  if (inline_only())
    return InlineAsync<GetResult>(std::span<const GetItem>(items), std::move(done));
  auto request = MakeArenaMessage<v1::GetRequest>();
  if (absl::Status filled = FillRequest(items, *request); !filled.ok()) return done(filled);
  CallAsync<v1::GetRequest, v1::GetReply>(
      std::move(request),
      [](v1::Store::Stub* stub, grpc::ClientContext* context, const v1::GetRequest* get,
         v1::GetReply* reply, std::function<void(grpc::Status)> ended) {
        stub->async()->Get(context, get, reply, std::move(ended));
      },
      [done = std::move(done), asked = items.size()](const absl::Status& status,
                                                     const v1::GetReply& reply) {
        if (!status.ok()) return done(status);
        done(Results(reply, asked));
      },
      false);
}

}  // namespace varve::client
