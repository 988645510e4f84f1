// Notes of contexts, as a journal brings them: a table recovers from whatever they say, and what it
// has then is in order and survives the next restart.
#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "kvstore/base/log.h"
#include "kvstore/recall/context_note.h"
#include "kvstore/recall/context_table.h"
#include "kvstore/tier/host_tier.h"
#include "tests/fuzz/fuzz.h"

namespace varve::fuzz {
namespace {

constexpr page::Geometry kShape{2, 1, 1, 32, 8, page::DType::kBF16};
constexpr uint64_t kMaxDigestBytes = 1 << 20;
constexpr uint32_t kMaxContextBlocks = 4096;

// A note in the input: the sizes of label and payload, two bytes each, label, payload.
std::string Framed(const std::string& label, const std::string& payload) {
  std::string out;
  for (const size_t size : {label.size(), payload.size()}) {
    out += static_cast<char>(size % 256);
    out += static_cast<char>(size / 256);
  }
  return out + label + payload;
}

std::string Hashes(uint32_t count) {
  std::string rows;
  for (uint32_t i = 0; i < count; ++i) {
    std::string row = "\x08hash" + std::to_string(1000 + i);
    row.resize(recall::kBlockRowBytes);
    rows += row;
  }
  return rows;
}

std::string Digests(uint32_t count) {
  return std::string(count * page::DigestRowBytes(page::DigestKind::kMinMax, kShape), '\0');
}

class Journal final : public store::Journal {
 public:
  explicit Journal(std::string_view input) {
    while (input.size() >= 4) {
      const auto byte = [&](size_t i) { return size_t{static_cast<uint8_t>(input[i])}; };
      const size_t label = byte(0) + 256 * byte(1);
      const size_t payload = byte(2) + 256 * byte(3);
      input.remove_prefix(4);
      const std::string_view bytes = input.substr(0, label + payload);
      Note note;
      note.label = bytes.substr(0, label);
      note.payload = bytes.substr(std::min(label, bytes.size()));
      Write(std::move(note));
      input.remove_prefix(bytes.size());
    }
  }
  store::NoteId Write(Note note) override {
    const store::NoteId id = ++last_;
    if (note.written) std::move(note.written)(absl::OkStatus());
    note.written = nullptr;
    notes_[id] = std::move(note);
    return id;
  }
  void Erase(std::span<const store::NoteId> ids) override {
    for (const store::NoteId id : ids) {
      Require(notes_.erase(id) == 1, "a note is erased that is not there");
    }
  }
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::Status Recover(Found fn) override {
    for (const auto& [id, note] : notes_) fn(id, note.label, note.payload);
    return absl::OkStatus();
  }
  Room GetRoom() const override { return {0, UINT64_MAX}; }

 private:
  std::map<store::NoteId, Note> notes_;
  store::NoteId last_ = 0;
};

// Everything visible in a table but the epochs, by namespace and id.
std::map<std::string, std::string> Describe(recall::ContextTable& table, store::PageStore& pages) {
  std::map<std::string, std::string> all;
  for (store::NamespaceId ns = 1; ns <= table.size(); ++ns) {
    for (const recall::ContextSnapshot& listed : table.List(ns, "", 100)) {
      const auto found = table.Attach(ns, listed.context_id, 1);
      Require(found.ok() && table.Park(ns, listed.context_id, 1).ok(), "a context is not there");
      Require(found->block_hashes.size() == found->num_blocks, "blocks without hashes");
      std::string& context = all[pages.NamespaceName(ns) + "/" + listed.context_id];
      for (const std::string& hash : found->block_hashes) context += hash + ",";
      for (uint32_t l = 0; l < found->digest_blocks.size(); ++l) {
        const uint32_t blocks = found->digest_blocks[l];
        Require(blocks <= found->num_blocks, "digests of blocks that are not there");
        const auto rows = table.ReadDigests(ns, listed.context_id, found->epoch, l, 0, blocks);
        Require(rows.ok(), "digests cannot be read");
        context += *rows + ";";
      }
    }
  }
  return all;
}

}  // namespace

std::vector<std::string> Seeds() {
  using recall::RowsSection;
  constexpr uint32_t kBlocks = RowsSection::kBlocks;
  constexpr uint32_t kHash = recall::kBlockRowBytes;
  const auto digest = static_cast<uint32_t>(Digests(1).size());
  recall::ContextNote own{"ns", "parent", {kShape}, {}};
  const std::string parent = Framed(EncodeLabel(own), "");
  recall::ContextNote turned = own;
  turned.options.geometry.rope = {.theta = 10000, .rotary_dim = 32};
  own.id = "fork";
  const std::string fork =
      Framed(EncodeLabel(own), recall::EncodePayload(std::vector<recall::Inherited>{{1, 3, 4}}));
  const auto rows = [](store::NoteId under, const std::vector<RowsSection>& sections,
                       const std::string& bytes) {
    return Framed(EncodeLabel(recall::RowsNote{under, sections}),
                  recall::EncodePayload(sections) + bytes);
  };
  const std::string built =
      parent + rows(1, {{0, 0, 3, digest}, {kBlocks, 0, 5, kHash}}, Digests(3) + Hashes(5)) +
      rows(1, {{0, 3, 2, digest}, {1, 0, 4, digest}}, Digests(6));
  // Its own digests are none, and begin where its parent's are good.
  const std::string no_digests(3 * digest, '\xff');
  return {Framed(EncodeLabel(recall::EpochsNote{5}), ""),
          parent,
          Framed(EncodeLabel(turned), ""),
          built,
          built + fork,
          built + fork + rows(4, {{0, 3, 3, digest}}, no_digests),
          built + fork + rows(4, {{kBlocks, 4, 2, kHash}}, Hashes(2)) +
              rows(4, {{0, 3, 3, digest}}, Digests(3))};
}

}  // namespace varve::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace varve;  // NOLINT(google-build-using-namespace): a fuzzer of several rooms
  using fuzz::Require;
  static const auto tier = *tier::HostTier::Create({.capacity_bytes = 1 << 20});
  static const bool quiet = base::SetLogLevel("off").ok();
  Require(quiet, "there is no log level 'off'");
  fuzz::Journal journal({reinterpret_cast<const char*>(data), size});
  std::map<std::string, std::string> before;
  for (int restart = 0; restart < 2; ++restart) {
    const auto pages = *store::PageStore::Create(tier.get(), {}, &base::SystemClock::Get());
    recall::ContextTableOptions options;
    options.max_digest_bytes = fuzz::kMaxDigestBytes;
    options.max_blocks = fuzz::kMaxContextBlocks;
    options.journal = &journal;
    const auto table = recall::ContextTable::Create(pages.get(), options);
    if (!table.ok()) {
      Require(!table.status().message().empty(), "an error without a message");
      return 0;
    }
    Require((*table)->digest_bytes() <= fuzz::kMaxDigestBytes, "more digests than allowed");
    const auto now = fuzz::Describe(**table, *pages);
    Require(restart == 0 || now == before, "another restart changes what is there");
    before = now;
  }
  return 0;
}
