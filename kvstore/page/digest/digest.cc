#include "kvstore/page/digest/digest.h"

#include <array>

#include "kvstore/page/digest/digest_math.h"
#include "kvstore/page/digest/sketch.h"
#include "kvstore/page/rows.h"

namespace varve::page {
namespace {

constexpr std::array<DigestKindInfo, 10> kKinds = {{
    {DigestKind::kMinMax, "minmax", 2, 0, 0, true, false, "Quest (ICML 2024)"},
    {DigestKind::kBoxMean, "box_mean", 2, 0, 0, false, false,
     "ArkVale (NeurIPS 2024), cuboid-mean"},
    {DigestKind::kMean, "mean", 1, 0, 0, false, true, "ShadowKV (2024), landmark"},
    {DigestKind::kSphere, "sphere", 1, kRadiusElements, 0, true, false,
     "ArkVale (NeurIPS 2024), sphere-max"},
    {DigestKind::kSign1, "sign1", 0, 0, 1, false, false, "Varve, 1 bit per channel"},
    {DigestKind::kSign2, "sign2", 0, 0, 2, false, false, "Varve, 2 bits per channel"},
    {DigestKind::kSign4, "sign4", 0, 0, 4, false, false, "Varve, 4 bits per channel"},
    {DigestKind::kMinMaxSign1, "minmax_sign1", 2, 0, 1, true, false, "minmax, then sign1"},
    {DigestKind::kMinMaxSign2, "minmax_sign2", 2, 0, 2, true, false, "minmax, then sign2"},
    {DigestKind::kMinMaxSign4, "minmax_sign4", 2, 0, 4, true, false, "minmax, then sign4"},
}};

bool IsBox(const void* row, size_t first, const Geometry& g) {
  for (size_t i = first; i < first + g.head_dim; ++i) {
    if (LoadAsF32(row, g.dtype, i) < LoadAsF32(row, g.dtype, i + g.head_dim)) return false;
  }
  return true;
}

bool IsRadius(const void* row, size_t first, DType dtype) {
  if (LoadAsF32(row, dtype, first) < 0) return false;
  for (size_t i = first + 1; i < first + kRadiusElements; ++i) {
    if (LoadAsF32(row, dtype, i) != 0) return false;
  }
  return true;
}

}  // namespace

std::span<const DigestKindInfo> DigestKinds() { return kKinds; }

const DigestKindInfo& Info(DigestKind kind) { return kKinds[static_cast<size_t>(kind) - 1]; }

std::optional<DigestKind> DigestKindByName(std::string_view name) {
  for (const DigestKindInfo& info : kKinds) {
    if (info.name == name) return info.kind;
  }
  return std::nullopt;
}

std::string_view SketchKindNames() {
  return "sign1, sign2, sign4, minmax_sign1, minmax_sign2, minmax_sign4";
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
  const size_t head_bytes = DigestBytes(kind, g);
  for (uint32_t h = 0; h < g.num_kv_heads; ++h) {
    const auto* digest = static_cast<const std::byte*>(row) + h * head_bytes;
    if (!AllFinite(digest, DigestElements(kind, g.head_dim), g.dtype)) return false;
    if (Info(kind).vectors == 2 && !IsBox(digest, 0, g)) return false;
    if (kind == DigestKind::kSphere && !IsRadius(digest, g.head_dim, g.dtype)) return false;
    const std::byte* sketch = digest + SketchOffset(kind, g.head_dim, g.dtype);
    if (HasSketch(kind) && !SketchIsSane(kind, sketch, g)) return false;
  }
  return true;
}

}  // namespace varve::page
