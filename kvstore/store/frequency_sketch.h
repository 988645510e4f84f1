// How often keys were used lately, roughly: a count-min sketch of 4-bit counters that are halved
// now and then (TinyLFU, Einziger, Friedman and Manes 2017). Estimates are never too low between
// two halvings.
//
// Not thread-safe.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace varve::store {

class FrequencySketch {
 public:
  // keys: how many are told apart well, at 8 to 16 bytes each. No more than the most: a sketch that
  // is small for its keys still finds those used often, with more of the others among them.
  static constexpr uint64_t kMostKeys = 8 << 20;
  explicit FrequencySketch(uint64_t keys)
      : mask_(std::bit_ceil(std::clamp<uint64_t>(keys, 64, kMostKeys)) - 1),
        words_(mask_ + 1),
        halve_after_((mask_ + 1) * kUsesPerKey) {}

  void Add(uint64_t identity) {
    for (uint32_t row = 0; row < kRows; ++row) {
      uint64_t& word = words_[WordOf(identity, row)];
      const uint32_t shift = ShiftOf(identity, row);
      if ((word >> shift & 15) < 15) word += uint64_t{1} << shift;
    }
    if (++uses_ >= halve_after_) Halve();
  }

  uint64_t memory_bytes() const { return words_.size() * sizeof(words_[0]); }
  // 0..15
  uint32_t Estimate(uint64_t identity) const {
    uint32_t least = 15;
    for (uint32_t row = 0; row < kRows; ++row) {
      least =
          std::min<uint32_t>(least, words_[WordOf(identity, row)] >> ShiftOf(identity, row) & 15);
    }
    return least;
  }

 private:
  static constexpr uint32_t kRows = 4;
  static constexpr uint64_t kUsesPerKey = 10;

  static uint64_t Mix(uint64_t identity, uint32_t row) {
    uint64_t x = identity + (row + 1) * 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
  }
  size_t WordOf(uint64_t identity, uint32_t row) const { return Mix(identity, row) & mask_; }
  // Each row has four of a word's sixteen counters.
  static uint32_t ShiftOf(uint64_t identity, uint32_t row) {
    return (row * 4 + static_cast<uint32_t>(Mix(identity, row) >> 62)) * 4;
  }

  void Halve() {
    for (uint64_t& word : words_) word = word >> 1 & 0x7777777777777777;
    uses_ /= 2;
  }

  const uint64_t mask_;
  std::vector<uint64_t> words_;
  const uint64_t halve_after_;
  uint64_t uses_ = 0;
};

}  // namespace varve::store
