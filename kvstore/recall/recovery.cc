#include "kvstore/recall/recovery.h"

#include <algorithm>
#include <set>
#include <utility>

#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::recall {
namespace {

RowFormat FormatOf(const ContextOptions& options, uint32_t layer) {
  return layer == RowsNote::kBlocks ? HashFormat() : DigestFormat(options);
}

// Of rows read before they are put together: twice what fits, as notes whose erasure a crash has
// lost are among them.
uint64_t ReadBytes(const ByteBudget& budget) {
  return budget.max_bytes() > UINT64_MAX / 2 ? UINT64_MAX : 2 * budget.max_bytes();
}

bool AreSane(std::string_view rows, const RowsNote& note, const ContextOptions& options) {
  if (note.layer == RowsNote::kBlocks) return true;  // the parser has looked
  const size_t row_bytes = DigestFormat(options).row_bytes();
  for (; !rows.empty(); rows.remove_prefix(row_bytes)) {
    if (!page::DigestRowIsSane(options.digest_kind, rows.data(), options.geometry)) return false;
  }
  return true;
}

}  // namespace

Recovery::Recovery(NoteKeeper* keeper, ContextBudgets* budgets)
    : keeper_(keeper),
      budgets_(budgets),
      read_{ByteBudget(ReadBytes(budgets->digests), "digests read", "max_digest_bytes"),
            ByteBudget(ReadBytes(budgets->blocks), "block lists read", "max_blocks")} {}

absl::Status Recovery::Read(store::Journal* journal) {
  absl::Status other_version;
  uint64_t damaged = 0;
  VARVE_RETURN_IF_ERROR(
      journal->Recover([&](store::NoteId id, std::string_view label, std::string_view payload) {
        absl::StatusOr<ParsedNote> note = ParseNote(label, payload);
        if (note.ok()) {
          Note(id, *std::move(note), payload);
        } else if (absl::IsDataLoss(note.status())) {
          ++damaged;
          spent_.emplace_back(keeper_, id);
        } else if (absl::IsFailedPrecondition(note.status())) {
          other_version = note.status();
        }
      }));
  if (damaged > 0) base::LogWarning(damaged, " damaged notes of contexts are dropped");
  return other_version;
}

void Recovery::Note(store::NoteId id, ParsedNote parsed, std::string_view payload) {
  if (const auto* epochs = std::get_if<EpochsNote>(&parsed)) {
    epochs_end_ = std::max(epochs_end_, epochs->end);
    spent_.emplace_back(keeper_, id);
  } else if (auto* context = std::get_if<ContextNote>(&parsed)) {
    contexts_.insert_or_assign(id, Own{std::move(*context), OwnedNote(keeper_, id)});
  } else {
    auto rows = std::make_unique<Rows>();
    rows->note = std::get<RowsNote>(parsed);
    rows->id = id;
    // No more than could be used: the rest is a hole.
    const bool blocks = rows->note.layer == RowsNote::kBlocks;
    rows->unfit = !(blocks ? read_.blocks : read_.digests).Take(payload.size());
    if (!rows->unfit) rows->bytes = payload;
    rows_[{rows->note.under, rows->note.layer}].push_back(std::move(rows));
  }
}

std::vector<RecoveredContext> Recovery::Take(uint32_t max_contexts) {
  std::vector<Plan> plans;
  std::set<std::pair<std::string, std::string>> names;
  // Of two by one name the newer one has replaced the other.
  for (auto own = contexts_.rbegin(); own != contexts_.rend(); ++own) {
    const ContextNote& note = own->second.note;
    if (plans.size() == max_contexts) break;
    if (!names.emplace(note.namespace_name, note.id).second) continue;
    plans.push_back(PlanFor(&own->second));
  }
  std::vector<RecoveredContext> recovered;
  recovered.reserve(plans.size());
  for (const Plan& plan : plans) recovered.push_back(Build(plan));
  MakeRuns();
  for (size_t i = 0; i < plans.size(); ++i) recovered[i].notes = NotesOf(*plans[i].own);
  runs_.clear();
  contexts_.clear();
  spent_.clear();
  return recovered;
}

Recovery::Plan Recovery::PlanFor(Own* own) {
  Plan plan{own, ListOf(*own, RowsNote::kBlocks), {}};
  for (uint32_t l = 0; l < own->note.options.geometry.num_layers; ++l) {
    plan.layers.push_back(ListOf(*own, l));
  }
  return plan;
}

// What does not must not hide what does: it will be discarded, and then the other would be seen.
bool Recovery::Fits(Rows& rows, const ContextOptions& options) {
  const size_t row_bytes = FormatOf(options, rows.note.layer).row_bytes();
  if (rows.unfit || rows.bytes.size() != rows.note.count * row_bytes) return false;
  const bool known = rows.asked.has_value() && rows.asked->geometry == options.geometry &&
                     rows.asked->digest_kind == options.digest_kind;
  if (!known) {
    rows.asked = options;
    rows.sane = AreSane(rows.bytes, rows.note, options);
  }
  return rows.sane;
}

// The candidates by where they begin, each as far as it counts for this context.
Recovery::List Recovery::ListOf(const Own& own, uint32_t layer) {
  absl::btree_map<uint32_t, Piece> pieces;
  size_t candidates = 0;
  const auto add = [&](const Inherited& from) {
    const auto under = rows_.find({from.under, layer});
    if (under == rows_.end()) return;
    for (const std::unique_ptr<Rows>& rows : under->second) {
      const RowsNote& note = rows->note;
      if (rows->id > from.last || note.first >= from.blocks) continue;
      ++candidates;
      if (!Fits(*rows, own.note.options)) continue;
      Piece& at = pieces[note.first];
      // Two can begin at one block only when an erased one came back.
      if (at.rows != nullptr && at.rows->id > rows->id) continue;
      at = {rows.get(), std::min(note.first + note.count, from.blocks)};
    }
  };
  for (const Inherited& from : own.note.inherited) add(from);
  add({own.kept.id(), UINT64_MAX, kMaxBlocks});
  List list;
  uint32_t end = 0;
  for (auto it = pieces.begin(); it != pieces.end() && it->first == end; ++it) {
    Piece piece = it->second;
    end = piece.end;
    piece.rows->end = std::max(piece.rows->end, end);
    list.pieces.push_back(piece);
  }
  list.hole = list.pieces.size() < candidates;
  return list;
}

RecoveredContext Recovery::Build(const Plan& plan) {
  const ContextNote& note = plan.own->note;
  RowList blocks(HashFormat());
  const bool cut = BuildList(plan.blocks, kMaxBlocks, &budgets_->blocks, blocks);
  std::vector<RowList> layers(plan.layers.size(), RowList(DigestFormat(note.options)));
  for (size_t l = 0; l < layers.size(); ++l) {
    BuildList(plan.layers[l], blocks.rows(), &budgets_->digests, layers[l]);
  }
  return {note.namespace_name,   note.id, note.options, std::move(blocks), std::move(layers),
          ContextNotes(keeper_), cut};
}

bool Recovery::BuildList(const List& list, uint32_t most, ByteBudget* budget, RowList& rows) {
  const Piece* before = nullptr;
  for (const Piece& piece : list.pieces) {
    if (piece.rows->note.first >= most) break;
    if (!BuildPiece(piece, before, budget, rows.format())) return true;
    rows = piece.rows->built->Prefix(std::min(piece.end, most));
    piece.rows->used = true;
    before = &piece;
  }
  return list.hole;
}

// Once for all contexts that share the note: what comes before it is the same for all of them.
bool Recovery::BuildPiece(const Piece& piece, const Piece* before, ByteBudget* budget,
                          const RowFormat& format) {
  Rows& rows = *piece.rows;
  const store::NoteId before_id = before == nullptr ? 0 : before->rows->id;
  if (rows.unfit) return false;
  if (rows.built.has_value()) {
    return rows.before == before_id && rows.built->format() == format;
  }
  const std::string bytes = std::exchange(rows.bytes, {});
  const RowList prefix =
      before == nullptr ? RowList(format) : before->rows->built->Prefix(rows.note.first);
  auto built = prefix.Append(reinterpret_cast<const std::byte*>(bytes.data()),
                             rows.end - rows.note.first, budget);
  if (built.ok()) rows.built = *std::move(built);
  rows.before = before_id;
  rows.unfit = !rows.built.has_value();
  return !rows.unfit;
}

void Recovery::MakeRuns() {
  for (auto& [under, list] : rows_) {
    for (const std::unique_ptr<Rows>& rows : list) {
      if (!rows->used) {
        keeper_->Discard(rows->id);
        continue;
      }
      std::shared_ptr<NoteRun>& run = runs_[under.first];
      if (run == nullptr) run = std::make_shared<NoteRun>(keeper_, under.first);
      run->Add(rows->id, rows->note.first);
    }
  }
  rows_.clear();
}

ContextNotes Recovery::NotesOf(Own& own) {
  std::vector<RunShare> inherited;
  for (const Inherited& from : own.note.inherited) {
    const auto run = runs_.find(from.under);
    if (run == runs_.end() || !run->second->Has(from.last, from.blocks)) continue;
    inherited.emplace_back(run->second, from.last, from.blocks);
  }
  std::shared_ptr<NoteRun>& run = runs_[own.kept.id()];
  if (run == nullptr) run = std::make_shared<NoteRun>(keeper_, own.kept.id());
  return ContextNotes(keeper_, std::move(own.kept), run, std::move(inherited));
}

}  // namespace varve::recall
