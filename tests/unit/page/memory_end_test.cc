// Kernels touch no memory beyond what they are given: here it begins a page of the system that may
// not be touched, so a stray read or write ends the test.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kvstore/page/attention.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/simd/kernels.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

// Bytes whose end is the end of what may be touched.
class AtTheEnd {
 public:
  explicit AtTheEnd(size_t bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t own = (bytes + page - 1) / page * page;
    mapped_ = own + page;
    base_ = static_cast<std::byte*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + own, page, PROT_NONE) != 0) std::abort();
    data_ = base_ + own - bytes;
  }
  ~AtTheEnd() { munmap(base_, mapped_); }
  AtTheEnd(const AtTheEnd&) = delete;
  AtTheEnd& operator=(const AtTheEnd&) = delete;

  std::byte* bytes() { return data_; }
  float* floats() { return reinterpret_cast<float*>(data_); }

 private:
  std::byte* base_;
  std::byte* data_;
  size_t mapped_;
};

TEST(MemoryEnd, MassesByKeys) {
  testing::Rng rng(811);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (uint32_t group = 1; group <= 9; ++group) {
      for (uint32_t pages = 1; pages <= 9; ++pages) {
        constexpr uint32_t kHeadDim = 80;
        const uint32_t tokens = rng.Between(1, 17);
        const size_t each = size_t{tokens} * kHeadDim * DTypeBytes(dtype);
        AtTheEnd keys(pages * each), query(size_t{group} * kHeadDim * 4),
            out(size_t{group} * pages * 4);
        std::memset(keys.bytes(), 0, pages * each);
        for (uint32_t i = 0; i < group * kHeadDim; ++i) query.floats()[i] = rng.Normal();
        std::vector<PageView> views;
        for (uint32_t p = 0; p < pages; ++p) {
          views.push_back({keys.bytes() + p * each, nullptr, tokens});
        }
        for (const KernelTable* kernels : AllKernels()) {
          kernels->page_log_mass({group, kHeadDim, dtype, 0.1f}, query.floats(), views,
                                 out.floats());
          for (uint32_t i = 0; i < group * pages; ++i) {
            EXPECT_NEAR(out.floats()[i], std::log(static_cast<float>(tokens)), 1e-5)
                << kernels->name;
          }
        }
      }
    }
  }
}

TEST(MemoryEnd, Digests) {
  testing::Rng rng(812);
  for (const DigestKindInfo& kind : DigestKinds()) {
    for (const uint32_t tokens : {8u, 16u, 32u}) {
      for (uint32_t pages = 1; pages <= 9; ++pages) {
        constexpr uint32_t kHeadDim = 96, kGroup = 5;
        const size_t row = DigestBytes(kind.kind, tokens, kHeadDim, DType::kBF16);
        AtTheEnd rows(pages * row), query(size_t{kGroup} * kHeadDim * 4),
            out(size_t{kGroup} * pages * 4);
        std::memset(rows.bytes(), 0, pages * row);
        for (uint32_t i = 0; i < kGroup * kHeadDim; ++i) query.floats()[i] = rng.Normal();
        for (const ScoreImpl& impl : ScoreImpls()) {
          impl.fn({kind.kind, DType::kBF16, kHeadDim, tokens, rows.bytes(), row, pages},
                  query.floats(), kGroup, out.floats());
          for (uint32_t i = 0; i < kGroup * pages; ++i) {
            EXPECT_TRUE(std::isfinite(out.floats()[i])) << kind.name << " " << impl.name;
          }
        }
      }
    }
  }
}

TEST(MemoryEnd, LowRankProducts) {
  testing::Rng rng(813);
  for (const DType dtype : testing::kAllDTypes) {
    for (uint32_t count = 1; count <= 14; ++count) {
      const uint32_t depth = rng.Between(1, 300), cols = 8 * rng.Between(1, 9);
      const size_t row = depth * DTypeBytes(dtype);
      const size_t matrix_bytes = size_t{depth} * cols * DTypeBytes(dtype);
      AtTheEnd rows(count * row), matrix(matrix_bytes), out(size_t{count} * cols * 4);
      std::memset(rows.bytes(), 0, count * row);
      std::memset(matrix.bytes(), 0, matrix_bytes);
      std::vector<const std::byte*> pointers;
      for (uint32_t t = 0; t < count; ++t) pointers.push_back(rows.bytes() + t * row);
      // As a basis: one head of `cols` channels, a vector per unit of depth.
      AtTheEnd x(size_t{count} * cols * 4), projected(size_t{count} * depth * 4);
      std::memset(x.bytes(), 0, size_t{count} * cols * 4);
      AtTheEnd stored(row), widened(size_t{depth} * 4);
      for (const KernelTable* kernels : AllKernels()) {
        kernels->multiply_rows(pointers, dtype, {matrix.bytes(), dtype, depth, cols}, out.floats(),
                               cols);
        EXPECT_EQ(out.floats()[size_t{count} * cols - 1], 0.0f) << kernels->name;
        kernels->project_rows(x.floats(), count, {matrix.bytes(), dtype, 1, depth, cols},
                              projected.floats());
        EXPECT_EQ(projected.floats()[size_t{count} * depth - 1], 0.0f) << kernels->name;
        kernels->to_floats(rows.bytes() + (count - 1) * row, dtype, depth, widened.floats());
        kernels->from_floats(widened.floats(), depth, dtype, stored.bytes());
        EXPECT_EQ(kernels->dot_f64(widened.floats(), widened.floats(), depth), 0.0);
      }
    }
  }
}

TEST(MemoryEnd, GramBlocks) {
  for (const KernelTable* kernels : AllKernels()) {
    for (uint32_t tokens = 1; tokens <= 9; ++tokens) {
      const size_t bytes = size_t{tokens} * kGramBlock * 4;
      AtTheEnd rows(bytes), cols(bytes), block(size_t{kGramBlock} * kGramBlock * 8);
      std::memset(rows.bytes(), 0, bytes);
      std::memset(cols.bytes(), 0, bytes);
      auto* sums = reinterpret_cast<double*>(block.bytes());
      std::fill_n(sums, kGramBlock * kGramBlock, 1.0);
      kernels->add_gram_block(rows.floats(), cols.floats(), tokens, sums);
      EXPECT_EQ(sums[kGramBlock * kGramBlock - 1], 1.0) << kernels->name;
    }
  }
}

}  // namespace
}  // namespace varve::page
