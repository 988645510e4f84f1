// Shared by the kernel bodies. Internal to page/simd; include inside the namespace of one kernel
// table, after vec_*.h.

// One vector of a row of T. head_dim is a multiple of 8, so a 16-lane row may end in half a vector.
template <DType T, bool kHalf>
VARVE_FN Vec LoadRow(const std::byte* p) {
#ifdef VARVE_HALF_VECTORS
  if constexpr (kHalf && T == DType::kF32) return LoadHalfF32(p);
  if constexpr (kHalf && T == DType::kF16) return LoadHalfF16(p);
  if constexpr (kHalf && T == DType::kBF16) return LoadHalfBF16(p);
#endif
  if constexpr (!kHalf) {
    if constexpr (T == DType::kF32) return LoadF32(p);
    if constexpr (T == DType::kF16) return LoadF16(p);
    if constexpr (T == DType::kBF16) return LoadBF16(p);
  }
}

VARVE_FN Vec LoadFloats(const float* p, uint32_t n, float fill) {
  return n >= kLanes ? LoadF32(p) : LoadF32Part(p, n, fill);
}
VARVE_FN void StoreFloats(float* p, uint32_t n, Vec v) {
  if (n >= kLanes) {
    Store(p, v);
  } else {
    StorePart(p, n, v);
  }
}

// exp(x) for x <= 0 within 2 ulp; below -87 the result is 0 (the true value is under 2e-38), also
// for -inf.
VARVE_FN Vec Exp(Vec x) {
  const Vec bounded = Max(x, Set(-87.0f));
  const Vec n = Round(bounded * Set(1.44269504088896341f));
  // ln 2 in two parts: the first has few bits, so n times it is exact.
  Vec r = MulAdd(n, Set(-0.693359375f), bounded);
  r = MulAdd(n, Set(2.12194440e-4f), r);
  Vec p = Set(1.0f / 5040);
  p = MulAdd(p, r, Set(1.0f / 720));
  p = MulAdd(p, r, Set(1.0f / 120));
  p = MulAdd(p, r, Set(1.0f / 24));
  p = MulAdd(p, r, Set(1.0f / 6));
  p = MulAdd(p, r, Set(0.5f));
  p = MulAdd(p, r, Set(1.0f));
  p = MulAdd(p, r, Set(1.0f));
  return KeepWhereAtLeast(p * Pow2(n), x, Set(-87.0f));
}
