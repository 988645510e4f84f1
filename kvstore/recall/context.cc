#include "kvstore/recall/context.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::recall {
namespace {

// A block hash as a row: its length, then its bytes.
constexpr size_t kHashRowBytes = kBlockRowBytes;
static_assert(page::kMaxBlockHashBytes < kHashRowBytes);

std::string EncodeHashes(std::span<const std::string> hashes) {
  std::string rows(hashes.size() * kHashRowBytes, '\0');
  for (size_t i = 0; i < hashes.size(); ++i) {
    char* row = rows.data() + i * kHashRowBytes;
    row[0] = static_cast<char>(hashes[i].size());
    std::memcpy(row + 1, hashes[i].data(), hashes[i].size());
  }
  return rows;
}

const std::byte* Data(std::string_view rows) {
  return reinterpret_cast<const std::byte*>(rows.data());
}

}  // namespace

RowFormat HashFormat() { return {1, kHashRowBytes}; }

RowFormat DigestFormat(const ContextOptions& options) {
  const page::Geometry& g = options.geometry;
  return {g.num_kv_heads, page::DigestBytes(options.digest_kind, g)};
}

std::vector<std::string> DecodeHashes(const RowList& blocks, uint32_t first, uint32_t count) {
  std::vector<std::string> hashes;
  hashes.reserve(count);
  blocks.ForEachPiece(
      first, count, [&](const RowChunk& chunk, uint32_t row, uint32_t rows, uint32_t) {
        for (uint32_t i = row; i < row + rows; ++i) {
          const std::byte* at = chunk.head(0) + i * kHashRowBytes;
          hashes.emplace_back(reinterpret_cast<const char*>(at + 1), static_cast<size_t>(at[0]));
        }
      });
  return hashes;
}

Context::State::State(const ContextOptions& options, NoteKeeper* keeper)
    : blocks(HashFormat()),
      layers(options.geometry.num_layers, RowList(DigestFormat(options))),
      notes(keeper) {}

Context::Context(store::NamespaceId ns, std::string id, const ContextOptions& options,
                 uint32_t epoch, store::PageStore* store, ContextBudgets* budgets,
                 NoteKeeper* keeper)
    : ns_(ns),
      id_(std::move(id)),
      options_(options),
      store_(store),
      budgets_(budgets),
      keeper_(keeper),
      note_label_(keeper->keeps() ? EncodeLabel(ContextNote{store->NamespaceName(ns), id_, options,
                                                            /*inherited=*/{}})
                                  : ""),
      layer_mutexes_(new base::Mutex[options.geometry.num_layers]),
      state_(options, keeper) {
  state_.epoch = epoch;
}

void Context::Keep(ContextNotes replaced) {
  base::MutexLock lock(mutex_);
  state_.notes.Begin(note_label_, std::move(replaced));
}

void Context::Restore(RowList blocks, std::vector<RowList> layers, ContextNotes notes) {
  base::MutexLock lock(mutex_);
  state_.blocks = std::move(blocks);
  state_.layers = std::move(layers);
  state_.notes = std::move(notes);
}

absl::Status Context::NotFound() const {
  return absl::NotFoundError(absl::StrCat("context '", id_, "' was dropped"));
}

absl::Status Context::CheckEpochLocked(uint32_t epoch) const {
  if (state_.retired) return NotFound();
  if (epoch == state_.epoch) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("epoch ", epoch, " of context '", id_, "' is over, it is now ", state_.epoch));
}

absl::Status Context::CheckEpoch(uint32_t epoch) const {
  base::MutexLock lock(mutex_);
  return CheckEpochLocked(epoch);
}

ContextSnapshot Context::Snapshot(bool for_attach) const {
  ContextSnapshot snapshot;
  snapshot.context_id = id_;
  snapshot.options = options_;
  snapshot.digest_blocks.reserve(options_.geometry.num_layers);
  RowList blocks(RowFormat{});
  std::shared_ptr<const KeptHotPages> hot;
  uint32_t hot_end = 0;
  {
    base::MutexLock lock(mutex_);
    snapshot.num_blocks = state_.blocks.rows();
    snapshot.epoch = state_.epoch;
    snapshot.attached_sessions = static_cast<uint32_t>(state_.attached.size());
    for (const RowList& layer : state_.layers) {
      snapshot.digest_bytes += layer.bytes();
      snapshot.digest_blocks.push_back(layer.rows());
    }
    if (for_attach) {
      blocks = state_.blocks;
      hot = state_.hot;
      hot_end = state_.hot_end;
    }
  }
  if (hot != nullptr) snapshot.hot = hot->Below(hot_end);
  snapshot.block_hashes = DecodeHashes(blocks, 0, blocks.rows());
  return snapshot;
}

absl::StatusOr<std::shared_ptr<Context>> Context::Fork(const std::string& new_id,
                                                       uint32_t num_blocks, uint32_t epoch) {
  auto fork = std::make_shared<Context>(ns_, new_id, options_, epoch, store_, budgets_, keeper_);
  base::MutexLock lock(mutex_);
  if (state_.retired) return NotFound();
  const uint32_t blocks = num_blocks == 0 ? state_.blocks.rows() : num_blocks;
  if (blocks > state_.blocks.rows()) {
    return absl::InvalidArgumentError(absl::StrCat("num_blocks is ", num_blocks, " for context '",
                                                   id_, "', allowed: 0..", state_.blocks.rows()));
  }
  // Nobody else knows the fork yet; its lock is taken for the analysis only.
  base::MutexLock fork_lock(fork->mutex_);
  fork->state_.blocks = state_.blocks.Prefix(blocks);
  for (size_t l = 0; l < state_.layers.size(); ++l) {
    fork->state_.layers[l] = state_.layers[l].Prefix(blocks);
  }
  fork->state_.hot = state_.hot;
  fork->state_.hot_end = std::min(state_.hot_end, blocks);
  fork->state_.notes = state_.notes.Fork(blocks);
  return fork;
}

// ---- blocks and attachments

absl::Status Context::CheckAppend(uint32_t first_block,
                                  std::span<const std::string> block_hashes) const {
  for (size_t i = 0; i < block_hashes.size(); ++i) {
    const size_t size = block_hashes[i].size();
    if (size < page::ObjectKey::kMinBytes || size > page::kMaxBlockHashBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "block_hashes[", i, "] has ", size, " bytes, allowed: ", page::ObjectKey::kMinBytes, "..",
          page::kMaxBlockHashBytes));
    }
  }
  base::MutexLock lock(mutex_);
  if (state_.retired) return NotFound();
  const uint32_t blocks = state_.blocks.rows();
  if (first_block != blocks) {
    return absl::FailedPreconditionError(absl::StrCat("first_block is ", first_block,
                                                      ", allowed: ", blocks, ", as context '", id_,
                                                      "' has ", blocks, " blocks"));
  }
  if (block_hashes.size() > kMaxBlocks - blocks) {
    return absl::ResourceExhaustedError(absl::StrCat("context '", id_, "' would have ",
                                                     blocks + block_hashes.size(),
                                                     " blocks, allowed: ", kMaxBlocks));
  }
  return absl::OkStatus();
}

absl::Status Context::Append(uint32_t first_block, std::span<const std::string> block_hashes) {
  base::MutexLock change(change_mutex_);
  VARVE_RETURN_IF_ERROR(CheckAppend(first_block, block_hashes));
  std::string rows = EncodeHashes(block_hashes);
  const auto count = static_cast<uint32_t>(block_hashes.size());
  RowList blocks(RowFormat{});
  bool attached = false;
  {
    base::MutexLock lock(mutex_);
    blocks = state_.blocks;
    attached = !state_.attached.empty();
  }
  VARVE_ASSIGN_OR_RETURN(blocks, blocks.Append(Data(rows), count, &budgets_->blocks));
  if (attached) store_->Hold(ns_, block_hashes);
  base::MutexLock lock(mutex_);
  state_.blocks = std::move(blocks);
  AddNoteLocked(RowsSection::kBlocks, first_block, count, std::move(rows));
  return absl::OkStatus();
}

absl::Status Context::Truncate(uint32_t num_blocks, uint32_t new_epoch) {
  base::MutexLock change(change_mutex_);
  RowList before(RowFormat{});
  bool attached = false;
  {
    base::MutexLock lock(mutex_);
    if (state_.retired) return NotFound();
    before = state_.blocks;
    attached = !state_.attached.empty();
    if (num_blocks > before.rows()) {
      return absl::InvalidArgumentError(absl::StrCat("num_blocks is ", num_blocks, " for context '",
                                                     id_, "', allowed: 0..", before.rows()));
    }
    state_.blocks = before.Prefix(num_blocks);
    for (RowList& layer : state_.layers) layer = layer.Prefix(num_blocks);
    state_.hot_end = std::min(state_.hot_end, num_blocks);
    state_.epoch = new_epoch;
    ContextNotes notes = state_.notes.Fork(num_blocks);
    notes.Begin(note_label_, std::move(state_.notes));
    state_.notes = std::move(notes);
  }
  keeper_->Sweep();
  if (attached) {
    store_->Release(ns_, DecodeHashes(before, num_blocks, before.rows() - num_blocks));
  }
  return absl::OkStatus();
}

absl::Status Context::Attach(uint64_t session) {
  base::MutexLock change(change_mutex_);
  RowList blocks(RowFormat{});
  {
    base::MutexLock lock(mutex_);
    if (state_.retired) return NotFound();
    if (!state_.attached.insert(session).second || state_.attached.size() > 1) {
      return absl::OkStatus();
    }
    blocks = state_.blocks;
  }
  store_->Hold(ns_, DecodeHashes(blocks, 0, blocks.rows()));
  return absl::OkStatus();
}

absl::Status Context::Park(uint64_t session, std::vector<HotPages> hot) {
  base::MutexLock change(change_mutex_);
  RowList blocks(RowFormat{});
  {
    base::MutexLock lock(mutex_);
    if (!state_.attached.contains(session)) return absl::OkStatus();
    blocks = state_.blocks;
  }
  std::shared_ptr<const KeptHotPages> kept;  // what it replaces is destroyed after the lock
  if (!hot.empty()) {
    VARVE_RETURN_IF_ERROR(CheckHotPages(options_.geometry, blocks.rows(), hot));
    kept = KeptHotPages::Keep(std::move(hot), &budgets_->digests);
  }
  {
    base::MutexLock lock(mutex_);
    if (kept != nullptr) {
      state_.hot.swap(kept);
      state_.hot_end = blocks.rows();
    }
    if (state_.attached.erase(session) == 0 || !state_.attached.empty()) return absl::OkStatus();
    state_.notes.Write();
  }
  store_->Release(ns_, DecodeHashes(blocks, 0, blocks.rows()));
  return absl::OkStatus();
}

bool Context::IsAttached(uint64_t session) const {
  base::MutexLock lock(mutex_);
  return state_.attached.contains(session);
}

bool Context::IsParked() const {
  base::MutexLock lock(mutex_);
  return state_.attached.empty();
}

void Context::Retire() {
  base::MutexLock change(change_mutex_);
  RowList blocks(RowFormat{});
  bool attached = false;
  {
    ContextNotes gone(keeper_);  // destroyed after the lock
    base::MutexLock lock(mutex_);
    state_.retired = true;
    attached = !state_.attached.empty();
    state_.attached.clear();
    blocks = state_.blocks;
    std::swap(gone, state_.notes);
  }
  keeper_->Sweep();
  if (attached) store_->Release(ns_, DecodeHashes(blocks, 0, blocks.rows()));
}

bool Context::RetireIfParked() {
  base::MutexLock lock(mutex_);
  // A Park under way gives up its holds by itself.
  if (!state_.attached.empty() || state_.retired) return false;
  state_.retired = true;
  return true;
}

// ---- notes

void Context::AddNoteLocked(uint32_t layer, uint32_t first, uint32_t count, std::string rows) {
  if (count == 0) return;
  const auto row_bytes = static_cast<uint32_t>(rows.size() / count);
  state_.notes.Add({layer, first, count, row_bytes}, std::move(rows));
  has_gathered_.store(state_.notes.has_gathered(), std::memory_order_relaxed);
}

void Context::WriteNotes() {
  base::MutexLock lock(mutex_);
  has_gathered_.store(false, std::memory_order_relaxed);
  state_.notes.Write();
}

void Context::NoteAgain() {
  {
    base::MutexLock lock(mutex_);
    if (state_.retired || !state_.notes.lacks_note()) return;
    ContextNotes notes = state_.notes.Fork(kMaxBlocks);
    notes.Begin(note_label_, std::move(state_.notes));
    state_.notes = std::move(notes);
  }
  keeper_->Sweep();
}

bool Context::Forget() {
  ContextNotes gone = ContextNotes::None(keeper_);  // destroyed after the lock
  {
    base::MutexLock lock(mutex_);
    std::swap(gone, state_.notes);
  }
  return gone.has_note();
}

// ---- digests

absl::Status Context::CheckDigestRows(uint32_t layer, uint32_t num_blocks,
                                      std::string_view rows) const {
  const page::Geometry& g = options_.geometry;
  if (layer >= g.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer is ", layer, ", allowed: 0..", g.num_layers - 1));
  }
  if (num_blocks == 0 || num_blocks > kMaxBlocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_blocks is ", num_blocks, ", allowed: 1..", kMaxBlocks));
  }
  const size_t row_bytes = page::DigestRowBytes(options_.digest_kind, g);
  if (rows.size() != num_blocks * row_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows has ", rows.size(), " bytes, allowed: ", num_blocks * row_bytes, " for ",
                     num_blocks, " blocks of ", row_bytes, " bytes"));
  }
  for (uint32_t i = 0; i < num_blocks; ++i) {
    if (!page::DigestRowIsSane(options_.digest_kind, rows.data() + i * row_bytes, g)) {
      return absl::InvalidArgumentError(
          absl::StrCat("rows: digest ", i,
                       " of the batch holds a NaN, an infinity, a maximum "
                       "below its minimum or, of a sketch, a negative scale or bits of no channel; "
                       "allowed: finite values with hi >= lo"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> Context::AppendDigests(uint32_t epoch, uint32_t layer,
                                                uint32_t first_block, uint32_t num_blocks,
                                                std::string_view rows) {
  VARVE_RETURN_IF_ERROR(CheckDigestRows(layer, num_blocks, rows));
  base::MutexLock layer_lock(layer_mutexes_[layer]);
  RowList digests(RowFormat{});
  uint32_t blocks = 0;
  {
    base::MutexLock lock(mutex_);
    VARVE_RETURN_IF_ERROR(CheckEpochLocked(epoch));
    digests = state_.layers[layer];
    blocks = state_.blocks.rows();
  }
  if (first_block > digests.rows()) {
    return absl::FailedPreconditionError(
        absl::StrCat("first_block is ", first_block, ", a hole: layer ", layer, " has digests of ",
                     digests.rows(), " blocks; allowed: 0..", digests.rows()));
  }
  if (num_blocks > blocks - first_block) {
    return absl::FailedPreconditionError(absl::StrCat(
        "digests of blocks ", first_block, "..", uint64_t{first_block} + num_blocks - 1,
        ", but context '", id_, "' has ", blocks, " blocks; append the blocks first"));
  }
  const std::byte* bytes = Data(rows);
  const uint32_t known = std::min(num_blocks, digests.rows() - first_block);
  if (!digests.Equals(first_block, known, bytes)) {
    return absl::FailedPreconditionError(
        absl::StrCat("rows differ from the digests already there for blocks ", first_block, "..",
                     first_block + known - 1, " of layer ", layer,
                     "; allowed: the same bytes, or truncate first"));
  }
  if (known == num_blocks) return digests.rows();
  const uint32_t before = digests.rows();
  rows.remove_prefix(known * digests.format().row_bytes());
  VARVE_ASSIGN_OR_RETURN(digests,
                         digests.Append(Data(rows), num_blocks - known, &budgets_->digests));
  const uint32_t digest_blocks = digests.rows();
  std::string kept;
  if (keeper_->keeps()) kept = rows;
  base::MutexLock lock(mutex_);
  // A truncate may have come in between: the rows copied meanwhile are then nobody's.
  VARVE_RETURN_IF_ERROR(CheckEpochLocked(epoch));
  state_.layers[layer] = std::move(digests);
  AddNoteLocked(layer, before, num_blocks - known, std::move(kept));
  return digest_blocks;
}

absl::StatusOr<std::string> Context::ReadDigests(uint32_t epoch, uint32_t layer,
                                                 uint32_t first_block, uint32_t num_blocks) const {
  if (layer >= options_.geometry.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer is ", layer, ", allowed: 0..", options_.geometry.num_layers - 1));
  }
  RowList digests(RowFormat{});
  {
    base::MutexLock lock(mutex_);
    VARVE_RETURN_IF_ERROR(CheckEpochLocked(epoch));
    digests = state_.layers[layer];
  }
  if (first_block > digests.rows() || num_blocks > digests.rows() - first_block) {
    return absl::FailedPreconditionError(absl::StrCat("digests of ", num_blocks, " blocks from ",
                                                      first_block, " were asked for, ", "layer ",
                                                      layer, " has ", digests.rows()));
  }
  std::string rows(num_blocks * digests.format().row_bytes(), '\0');
  digests.Read(first_block, num_blocks, reinterpret_cast<std::byte*>(rows.data()));
  return rows;
}

absl::StatusOr<Context::RecallView> Context::View(uint32_t epoch,
                                                  std::span<const LayerQuery> layers) const {
  RecallView view{RowList(RowFormat{}), {}};
  view.layers.reserve(layers.size());
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(CheckEpochLocked(epoch));
  view.blocks = state_.blocks;
  for (const LayerQuery& query : layers) view.layers.push_back(state_.layers[query.layer]);
  return view;
}

}  // namespace varve::recall
