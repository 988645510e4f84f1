// Integer sums of sketches. Internal to page/simd; include inside the namespace of one kernel
// table, after vec_*.h.
//
// Lanes are tokens, so no sum goes across lanes. The codes of four channels are unpacked once (a
// shift and a mask) for up to eight query heads, whose sums stay in registers. The sums are the
// same in every table; from there on it is fp32 (score.h). Counting bits instead (VPOPCNTD over the
// bit planes of the query) would take an AND, a count and an addition for each of its eight planes
// where four channels take one multiply-add: three times as much.

// Integer sums of kTiles vectors of tokens. words: word 0 of the first of them. prefetch(offset) is
// called for what is read.
template <uint32_t kBits, uint32_t kHeads, uint32_t kTiles, class Prefetch>
VARVE_FN void SketchDots(const std::byte* words, SketchShape shape, const SketchQueries& queries,
                         uint32_t head, const Prefetch& prefetch, IntVec (&sums)[kHeads][kTiles]) {
  constexpr uint32_t kQuadsPerWord = 8 / kBits;
  const IntVec mask = SetInt(0x01010101u * ((1u << kBits) - 1));
#pragma GCC unroll 8
  for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 2
    for (uint32_t tile = 0; tile < kTiles; ++tile) sums[h][tile] = SetInt(0);
  }
  for (uint32_t w = 0; w < shape.words; ++w, words += size_t{4} * shape.tokens) {
    IntVec word[kTiles];
#pragma GCC unroll 2
    for (uint32_t tile = 0; tile < kTiles; ++tile)
      word[tile] = LoadWords(words + 4 * tile * kLanes);
    prefetch(size_t{4} * w * shape.tokens);
#pragma GCC unroll 8
    for (uint32_t k = 0; k < kQuadsPerWord; ++k) {
      IntVec codes[kTiles];
#pragma GCC unroll 2
      for (uint32_t tile = 0; tile < kTiles; ++tile) {
        codes[tile] = Codes(word[tile], k * kBits, mask);
      }
#pragma GCC unroll 8
      for (uint32_t h = 0; h < kHeads; ++h) {
        const IntVec quad = SetInt(queries.quads[head + h][w * kQuadsPerWord + k]);
#pragma GCC unroll 2
        for (uint32_t tile = 0; tile < kTiles; ++tile) {
          sums[h][tile] = AddDots(sums[h][tile], codes[tile], quad);
        }
      }
    }
  }
}
