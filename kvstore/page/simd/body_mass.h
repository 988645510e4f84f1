// The mass of pages by their keys. Internal to page/simd; include inside the namespace of one
// kernel table, after body_attention.h.

template <DType T, uint32_t kHeads>
VARVE_KERNEL void LogMassHeads(const AttentionShape& shape, const float* q,
                               std::span<const PageView> pages, float* log_mass) {
  for (size_t i = 0; i < pages.size(); ++i) {
    const uint32_t tokens = pages[i].tokens;
    float logits[kHeads][kMaxPageTokens];
    PageLogits<T, kHeads>(q, shape.head_dim, static_cast<const std::byte*>(pages[i].k), tokens,
                          logits);
    for (uint32_t h = 0; h < kHeads; ++h) {
      for (uint32_t t = 0; t < tokens; ++t) logits[h][t] *= shape.scale;
      const float max = RowMax(logits[h], tokens);
      log_mass[h * pages.size() + i] =
          tokens == 0 ? max : max + std::log(ExpAndSum(logits[h], tokens, max, 1.0f));
    }
  }
}

template <DType T>
VARVE_KERNEL void LogMassOf(const AttentionShape& shape, const float* q,
                            std::span<const PageView> pages, float* log_mass) {
  for (uint32_t g = 0; g < shape.group_size; g += 4) {
    const float* heads = q + size_t{g} * shape.head_dim;
    float* out = log_mass + g * pages.size();
    switch (shape.group_size - g) {
      case 1:
        LogMassHeads<T, 1>(shape, heads, pages, out);
        break;
      case 2:
        LogMassHeads<T, 2>(shape, heads, pages, out);
        break;
      case 3:
        LogMassHeads<T, 3>(shape, heads, pages, out);
        break;
      default:
        LogMassHeads<T, 4>(shape, heads, pages, out);
        break;
    }
  }
}

VARVE_KERNEL void PageLogMassKernel(const AttentionShape& shape, const float* q,
                                    std::span<const PageView> pages, float* log_mass) {
  switch (shape.dtype) {
    case DType::kF32:
      return LogMassOf<DType::kF32>(shape, q, pages, log_mass);
    case DType::kF16:
      return LogMassOf<DType::kF16>(shape, q, pages, log_mass);
    case DType::kBF16:
      return LogMassOf<DType::kBF16>(shape, q, pages, log_mass);
  }
}
