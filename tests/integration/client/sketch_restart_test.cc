// Sketches of keys over the way to disk and back: contexts of every kind that has them, and the
// pages that they were built from, are the same bit for bit in a store that was restarted, whether
// it ended in order or was killed.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "kvstore/base/status.h"
#include "kvstore/page/rows.h"
#include "tests/support/assert_ok.h"
#include "tests/support/store_process.h"

namespace varve::client {
namespace {

using varve::testing::StoreProcess;

constexpr uint32_t kBlocks = 150;

class SketchRestart : public ::testing::TestWithParam<page::DType> {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/varve_sketch_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    for (const page::DigestKindInfo& info : page::DigestKinds()) {
      if (page::HasSketch(info.kind)) kinds_.push_back(info.kind);
    }
    ASSERT_EQ(kinds_.size(), 6u);
    geometry_.dtype = GetParam();
    layout_ = {geometry_.num_kv_heads, static_cast<uint32_t>(geometry_.part_bytes())};
    Start();
  }
  void TearDown() override {
    Disconnect();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void Disconnect() {
    memory_.reset();
    client_.reset();
  }
  // Host memory for a few of the objects.
  void Start() {
    auto store = StoreProcess::Start(
        {"--host_tier.capacity_bytes=1MiB", "--sessions.max_object_bytes=512KiB",
         absl::StrCat("--nvme_tier.directories=", folder_, "/disk=", 256 << 20),
         "--nvme_tier.segment_bytes=4MiB", "--nvme_tier.staging_bytes=4MiB",
         "--nvme_tier.durability=nvme_sync"});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    ClientOptions options;
    options.address = store_->grpc_address();
    auto client = Client::Connect(options);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    auto memory = client_->Allocate(geometry_.object_bytes());
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
  }

  static std::string HashOf(uint32_t block) { return absl::StrCat("block-hash-", 100000 + block); }
  static page::ObjectKey Key(uint32_t block, uint32_t layer) {
    return *page::MakeObjectKey(HashOf(block), layer);
  }
  static std::string ContextOf(page::DigestKind kind) {
    return absl::StrCat("of-", static_cast<int>(kind));
  }
  // Of one (block, layer): keys of different sizes, some rows of zeros.
  std::vector<std::byte> Object(uint32_t block, uint32_t layer) const {
    std::mt19937_64 random(block * 7919 + layer);
    std::normal_distribution<float> normal(0.1f, 1.0f + static_cast<float>(block % 5));
    const size_t elements = geometry_.object_bytes() / page::DTypeBytes(geometry_.dtype);
    std::vector<std::byte> object(geometry_.object_bytes());
    for (size_t i = 0; i < elements; ++i) {
      const bool zero = i / geometry_.head_dim % 17 == 3;
      page::StoreF32(object.data(), geometry_.dtype, i, zero ? 0.0f : normal(random));
    }
    return object;
  }
  // The digest row of one (block, layer), from an object's keys as they are.
  std::string RowOf(page::DigestKind kind, std::span<const std::byte> object) const {
    const size_t bytes = page::DigestBytes(kind, geometry_);
    std::string row(page::DigestRowBytes(kind, geometry_), '\0');
    for (uint32_t h = 0; h < geometry_.num_kv_heads; ++h) {
      page::ForEachExtent(layout_, {page::Part::kK, h, 1}, [&](page::Extent extent) {
        EXPECT_TRUE(page::BuildDigest(kind, object.data() + extent.offset, geometry_.page_tokens,
                                      geometry_.head_dim, geometry_.dtype, row.data() + h * bytes));
      });
    }
    return row;
  }

  void StoreAll() {
    for (const page::DigestKind kind : kinds_) {
      const std::string id = ContextOf(kind);
      const auto opened = client_->OpenContext(id, geometry_, kind);
      ASSERT_OK(opened.status());
      std::vector<std::string> hashes;
      for (uint32_t b = 0; b < kBlocks; ++b) hashes.push_back(HashOf(b));
      ASSERT_OK(client_->AppendContext(id, 0, hashes).status());
      for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
        std::string rows;
        for (uint32_t b = 0; b < kBlocks; ++b) rows += RowOf(kind, Object(b, l));
        // In pieces, so that several notes make a layer.
        const size_t row_bytes = rows.size() / kBlocks;
        for (uint32_t first = 0; first < kBlocks; first += 37) {
          const uint32_t count = std::min(37u, kBlocks - first);
          ASSERT_OK(client_->SendDigests(id, opened->epoch, l, first, count,
                                         rows.substr(first * row_bytes, count * row_bytes),
                                         absl::Now()));
        }
        sent_.push_back(std::move(rows));
      }
      ASSERT_OK(client_->ParkContext(id).status());
    }
    for (uint32_t b = 0; b < kBlocks; ++b) {
      for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
        const std::vector<std::byte> object = Object(b, l);
        std::copy(object.begin(), object.end(), memory_->bytes().begin());
        const auto put = client_->Put(std::vector<PutItem>{
            {.key = Key(b, l), .sources = {{memory_.get(), 0, object.size()}}, .layout = layout_}});
        ASSERT_OK(put.status());
        ASSERT_EQ(put->front().outcome, PutOutcome::kStored) << put->front().message;
      }
    }
  }
  // What the store has is what was sent, and what is built from the pages that it gives.
  void ExpectAll() {
    size_t at = 0, from_disk = 0;
    for (const page::DigestKind kind : kinds_) {
      const auto info = client_->AttachContext(ContextOf(kind));
      ASSERT_OK(info.status());
      EXPECT_EQ(info->digest_kind, kind);
      EXPECT_EQ(info->geometry, geometry_);
      ASSERT_EQ(info->num_blocks, kBlocks);
      std::vector<std::string> layers(geometry_.num_layers);
      ASSERT_OK(
          client_->ReadDigests(ContextOf(kind), info->epoch, 0, 0,
                               [&](uint32_t layer, uint32_t, uint32_t, std::string_view rows) {
                                 layers.at(layer) += rows;
                                 return absl::OkStatus();
                               }));
      for (const std::string& rows : layers) {
        EXPECT_TRUE(rows == sent_[at++]) << base::Sv(page::Info(kind).name);
      }
      ASSERT_OK(client_->ParkContext(ContextOf(kind)).status());
    }
    for (uint32_t b = 0; b < kBlocks; ++b) {
      for (uint32_t l = 0; l < geometry_.num_layers; ++l) {
        std::fill(memory_->bytes().begin(), memory_->bytes().end(), std::byte{0});
        const auto get = client_->Get(std::vector<GetItem>{
            {.key = Key(b, l), .destinations = {{memory_.get(), 0, geometry_.object_bytes()}}}});
        ASSERT_OK(get.status());
        ASSERT_TRUE(get->front().hit) << "block " << b << ", layer " << l;
        from_disk += get->front().tier == Tier::kNvme ? 1 : 0;
        const std::vector<std::byte> object = Object(b, l);
        const std::span<const std::byte> got = memory_->bytes().first(object.size());
        ASSERT_TRUE(std::equal(object.begin(), object.end(), got.begin(), got.end()));
        for (size_t k = 0; k < kinds_.size(); ++k) {
          const std::string& rows = sent_[k * geometry_.num_layers + l];
          const size_t row_bytes = rows.size() / kBlocks;
          EXPECT_TRUE(RowOf(kinds_[k], got) == rows.substr(b * row_bytes, row_bytes))
              << base::Sv(page::Info(kinds_[k]).name) << ", block " << b << ", layer " << l;
        }
      }
    }
    EXPECT_GT(from_disk, kBlocks / 2) << "most were to come from disk";
  }

  page::Geometry geometry_{2, 2, 4, 64, 16, page::DType::kBF16};
  page::ObjectLayout layout_;
  std::vector<page::DigestKind> kinds_;
  std::vector<std::string> sent_;  // [kind][layer]
  std::string folder_;
  std::unique_ptr<StoreProcess> store_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Memory> memory_;
};

TEST_P(SketchRestart, EveryBitIsThereAgain) {
  ASSERT_NO_FATAL_FAILURE(StoreAll());
  ASSERT_NO_FATAL_FAILURE(ExpectAll());
  for (const int signal : {SIGTERM, SIGTERM, SIGKILL}) {
    SCOPED_TRACE(signal);
    Disconnect();
    store_->Signal(signal);
    ASSERT_OK(store_->Wait(absl::Seconds(60)).status());
    ASSERT_NO_FATAL_FAILURE(Start());
    ASSERT_NO_FATAL_FAILURE(ExpectAll());
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, SketchRestart,
                         ::testing::Values(page::DType::kBF16, page::DType::kF32),
                         [](const auto& info) {
                           return info.param == page::DType::kF32 ? "F32" : "BF16";
                         });

}  // namespace
}  // namespace varve::client
