#include "kvstore/recall/recovery.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::recall {
namespace {

RowFormat FormatOf(const ContextOptions& options, uint32_t layer) {
  return layer == RowsSection::kBlocks ? HashFormat() : DigestFormat(options);
}

// Of rows read before they are put together: twice what fits, as notes whose erasure a crash has
// lost are among them.
uint64_t ReadBytes(const ByteBudget& budget) {
  return budget.max_bytes() > UINT64_MAX / 2 ? UINT64_MAX : 2 * budget.max_bytes();
}

constexpr char kContexts[] = "max_contexts";
constexpr char kUnread[] = "of notes that cannot be read";

const char* SettingFor(uint32_t layer) {
  return layer == RowsSection::kBlocks ? "max_blocks" : "max_digest_bytes";
}

void LogLeft(const std::map<std::string, size_t>& reasons) {
  std::string text;
  size_t contexts = 0;
  for (const auto& [reason, count] : reasons) {
    contexts += count;
    absl::StrAppend(&text, text.empty() ? "" : ", ", count, " because of ", reason);
  }
  if (contexts == 0) return;
  base::LogWarning(contexts, " contexts stay on disk and are not served (", text,
                   "): they are there at a start that has room for them and can read them, unless "
                   "they expire or are opened anew before");
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
  VARVE_RETURN_IF_ERROR(journal->Recover(
      [&](store::NoteId id, std::string_view label, std::optional<std::string_view> payload) {
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

void Recovery::Note(store::NoteId id, ParsedNote parsed, std::optional<std::string_view> payload) {
  if (const auto* epochs = std::get_if<EpochsNote>(&parsed)) {
    epochs_end_ = std::max(epochs_end_, epochs->end);
    spent_.emplace_back(keeper_, id);
  } else if (auto* context = std::get_if<ContextNote>(&parsed)) {
    unread_contexts_ = unread_contexts_ || !payload.has_value();
    contexts_.insert_or_assign(
        id, Own{std::move(*context), OwnedNote(keeper_, id), !payload.has_value()});
  } else {
    NoteRows(id, std::get<RowsNote>(parsed), payload);
  }
}

void Recovery::NoteRows(store::NoteId id, const RowsNote& note,
                        std::optional<std::string_view> payload) {
  auto from = std::make_unique<RowsFrom>();
  from->id = id;
  from->under = note.under;
  from->unread = !payload.has_value();
  if (payload.has_value()) {
    from->first = UINT32_MAX;
    const std::vector<std::string_view> bytes = RowsOf(note, *payload);
    for (size_t i = 0; i < bytes.size(); ++i) {
      auto rows = std::make_unique<Rows>();
      rows->from = from.get();
      rows->section = note.sections[i];
      from->first = std::min(from->first, rows->section.first);
      const bool blocks = rows->section.layer == RowsSection::kBlocks;
      rows->left_out = !(blocks ? read_.blocks : read_.digests).Take(bytes[i].size());
      if (!rows->left_out) rows->bytes = bytes[i];
      rows_[{note.under, rows->section.layer}].push_back(std::move(rows));
    }
  }
  from_[note.under].push_back(std::move(from));
}

Recovery::Found Recovery::Take(uint32_t max_contexts) {
  std::vector<Plan> plans;
  std::set<std::pair<std::string, std::string>> names;
  // Of two by one name the newer one has replaced the other.
  for (auto own = contexts_.rbegin(); own != contexts_.rend(); ++own) {
    const ContextNote& note = own->second.note;
    if (!names.emplace(note.namespace_name, note.id).second) continue;
    plans.push_back(PlanFor(&own->second));
  }
  std::map<std::string, size_t> reasons;
  std::vector<std::optional<RecoveredContext>> built;
  size_t contexts = 0;
  for (Plan& plan : plans) {
    if (plan.left.empty() && contexts == max_contexts) plan.left = kContexts;
    built.push_back(plan.left.empty() ? Build(plan) : std::nullopt);
    if (built.back().has_value()) {
      ++contexts;
    } else {
      ++reasons[plan.left];
      KeepNotesOf(*plan.own);
    }
  }
  LogLeft(reasons);
  MakeRuns();
  Found found;
  for (size_t i = 0; i < plans.size(); ++i) {
    Own& own = *plans[i].own;
    if (built[i].has_value()) {
      built[i]->notes = NotesOf(own);
      found.contexts.push_back(*std::move(built[i]));
    } else {
      found.left.push_back({own.note.namespace_name, own.note.id, NotesOf(own)});
    }
  }
  runs_.clear();
  contexts_.clear();
  spent_.clear();
  return found;
}

std::vector<Inherited> Recovery::SourcesOf(const Own& own) {
  std::vector<Inherited> sources = own.note.inherited;
  sources.push_back({own.kept.id(), UINT64_MAX, kMaxBlocks});
  return sources;
}

Recovery::Plan Recovery::PlanFor(Own* own) {
  Plan plan;
  plan.own = own;
  if (own->unread) plan.left = kUnread;
  for (const Inherited& source : SourcesOf(*own)) {
    const auto under = from_.find(source.under);
    if (under == from_.end()) continue;
    for (const std::unique_ptr<RowsFrom>& from : under->second) {
      if (from->unread && from->id <= source.last) plan.left = kUnread;
    }
  }
  plan.blocks = ListOf(plan, RowsSection::kBlocks);
  for (uint32_t l = 0; l < own->note.options.geometry.num_layers; ++l) {
    plan.layers.push_back(ListOf(plan, l));
  }
  return plan;
}

bool Recovery::IsSane(Rows& rows, const ContextOptions& options) {
  const RowsSection& section = rows.section;
  // The parser has looked at hashes.
  if (rows.left_out || section.layer == RowsSection::kBlocks) return true;
  if (rows.sane_for.has_value() && rows.sane_for->geometry == options.geometry &&
      rows.sane_for->digest_kind == options.digest_kind) {
    return true;
  }
  std::string_view bytes = rows.bytes;
  for (; !bytes.empty(); bytes.remove_prefix(section.row_bytes)) {
    if (!page::DigestRowIsSane(options.digest_kind, bytes.data(), options.geometry)) return false;
  }
  rows.sane_for = options;
  return true;
}

// The candidates by where they begin, each as far as it counts for this context.
Recovery::List Recovery::ListOf(Plan& plan, uint32_t layer) {
  absl::btree_map<uint32_t, Piece> pieces;
  size_t candidates = 0;
  const size_t row_bytes = FormatOf(plan.own->note.options, layer).row_bytes();
  for (const Inherited& source : SourcesOf(*plan.own)) {
    const auto under = rows_.find({source.under, layer});
    if (under == rows_.end()) continue;
    for (const std::unique_ptr<Rows>& rows : under->second) {
      const RowsSection& section = rows->section;
      if (rows->from->id > source.last || section.first >= source.blocks) continue;
      ++candidates;
      if (section.row_bytes != row_bytes || !IsSane(*rows, plan.own->note.options)) continue;
      Piece& at = pieces[section.first];
      // Two can begin at one block only when an erased one came back.
      if (at.rows != nullptr && at.rows->from->id > rows->from->id) continue;
      at = {rows.get(), std::min(section.first + section.count, source.blocks)};
    }
  }
  List list;
  uint32_t end = 0;
  for (auto it = pieces.begin(); it != pieces.end() && it->first == end; ++it) {
    Piece piece = it->second;
    end = piece.end;
    if (piece.rows->left_out && plan.left.empty()) plan.left = SettingFor(layer);
    piece.rows->end = std::max(piece.rows->end, end);
    list.pieces.push_back(piece);
  }
  list.hole = list.pieces.size() < candidates;
  return list;
}

std::optional<RecoveredContext> Recovery::Build(Plan& plan) {
  const ContextNote& note = plan.own->note;
  RowList blocks(HashFormat());
  const bool cut = BuildList(plan, plan.blocks, kMaxBlocks, blocks);
  std::vector<RowList> layers(plan.layers.size(), RowList(DigestFormat(note.options)));
  for (size_t l = 0; l < layers.size() && plan.left.empty(); ++l) {
    BuildList(plan, plan.layers[l], blocks.rows(), layers[l]);
  }
  if (!plan.left.empty()) {
    // The room is for others.
    for (Rows* rows : plan.built) rows->built.reset();
    return std::nullopt;
  }
  for (Rows* rows : plan.built) rows->bytes = {};
  for (Rows* rows : plan.used) rows->from->needed = true;
  return RecoveredContext{
      note.namespace_name,   note.id, note.options, std::move(blocks), std::move(layers),
      ContextNotes(keeper_), cut};
}

bool Recovery::BuildList(Plan& plan, const List& list, uint32_t most, RowList& rows) {
  const Piece* before = nullptr;
  for (const Piece& piece : list.pieces) {
    if (piece.rows->section.first >= most) break;
    if (!BuildPiece(plan, piece, before, rows.format())) return true;
    rows = piece.rows->built->Prefix(std::min(piece.end, most));
    plan.used.push_back(piece.rows);
    before = &piece;
  }
  return list.hole;
}

// Once for all contexts that share the note: what comes before it is the same for all of them.
bool Recovery::BuildPiece(Plan& plan, const Piece& piece, const Piece* before,
                          const RowFormat& format) {
  Rows& rows = *piece.rows;
  const RowsSection& section = rows.section;
  const store::NoteId before_id = before == nullptr ? 0 : before->rows->from->id;
  if (rows.built.has_value()) {
    return rows.before == before_id && rows.built->format() == format;
  }
  const RowList prefix =
      before == nullptr ? RowList(format) : before->rows->built->Prefix(section.first);
  ByteBudget& budget = section.layer == RowsSection::kBlocks ? budgets_->blocks : budgets_->digests;
  auto built = prefix.Append(reinterpret_cast<const std::byte*>(rows.bytes.data()),
                             rows.end - section.first, &budget);
  if (!built.ok()) {
    plan.left = SettingFor(section.layer);
    return false;
  }
  rows.built = *std::move(built);
  rows.before = before_id;
  plan.built.push_back(&rows);
  return true;
}

void Recovery::KeepNotesOf(const Own& own) {
  for (const Inherited& source : SourcesOf(own)) {
    const auto under = from_.find(source.under);
    if (under == from_.end()) continue;
    for (const std::unique_ptr<RowsFrom>& from : under->second) {
      if (from->id <= source.last && from->first < source.blocks) from->needed = true;
    }
  }
}

void Recovery::MakeRuns() {
  for (auto& [under, notes] : from_) {
    for (const std::unique_ptr<RowsFrom>& from : notes) {
      if (!from->needed) {
        // What a context note inherits that cannot be read may be any.
        if (!unread_contexts_) keeper_->Discard(from->id);
        continue;
      }
      std::shared_ptr<NoteRun>& run = runs_[under];
      if (run == nullptr) run = std::make_shared<NoteRun>(keeper_, under);
      run->Add(from->id, from->first);
    }
  }
  rows_.clear();
  from_.clear();
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
