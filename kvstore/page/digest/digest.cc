#include "kvstore/page/digest/digest.h"

#include <array>

#include "kvstore/page/digest/digest_math.h"
#include "kvstore/page/rows.h"

namespace varve::page {
namespace {

constexpr std::array<DigestKindInfo, 3> kKinds = {{
    {DigestKind::kMinMax, "minmax", 2, true, false, "Quest (ICML 2024)"},
    {DigestKind::kBoxMean, "box_mean", 2, false, false, "ArkVale (NeurIPS 2024), cuboid-mean"},
    {DigestKind::kMean, "mean", 1, false, true, "ShadowKV (2024), landmark"},
}};

}  // namespace

std::span<const DigestKindInfo> DigestKinds() { return kKinds; }

const DigestKindInfo& Info(DigestKind kind) { return kKinds[static_cast<size_t>(kind) - 1]; }

std::optional<DigestKind> DigestKindByName(std::string_view name) {
  for (const DigestKindInfo& info : kKinds) {
    if (info.name == name) return info.kind;
  }
  return std::nullopt;
}

void MergeMinMax(const void* a, const void* b, uint32_t head_dim, DType dtype, void* out) {
  using digest_math::Max;
  using digest_math::Min;
  for (size_t i = 0; i < head_dim; ++i) {
    const size_t lo = head_dim + i;
    const float hi_value = Max(LoadAsF32(a, dtype, i), LoadAsF32(b, dtype, i));
    const float lo_value = Min(LoadAsF32(a, dtype, lo), LoadAsF32(b, dtype, lo));
    digest_math::StoreCanonical(out, dtype, i, hi_value);
    digest_math::StoreCanonical(out, dtype, lo, lo_value);
  }
}

bool DigestRowIsSane(DigestKind kind, const void* row, const Geometry& g) {
  const uint32_t vectors = Info(kind).vectors;
  const size_t per_head = size_t{vectors} * g.head_dim;
  if (!AllFinite(row, per_head * g.num_kv_heads, g.dtype)) return false;
  if (vectors != 2) return true;
  for (size_t head = 0; head < g.num_kv_heads; ++head) {
    for (size_t i = head * per_head; i < head * per_head + g.head_dim; ++i) {
      if (LoadAsF32(row, g.dtype, i) < LoadAsF32(row, g.dtype, i + g.head_dim)) return false;
    }
  }
  return true;
}

}  // namespace varve::page
