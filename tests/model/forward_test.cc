// The forward pass against logits of an independent float64 implementation, and prefill against
// decode.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "client/console/file_io.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/page/rope.h"
#include "tests/model/dense_backend.h"
#include "tests/model/sequence.h"
#include "tests/model/tiny_model.h"

namespace varve::model {

// Found by GoogleTest: test names must not hold addresses.
void PrintTo(const Kernels* kernels, std::ostream* out) { *out << kernels->name; }

namespace {

struct Golden {
  std::string task;
  std::vector<int32_t> ids;
  uint32_t first_position = 0;  // of the logits, which reach to the end
  std::vector<float> logits;
};

std::vector<Golden> ReadGoldens() {
  const std::string dir = VARVE_TEST_DATA_DIR;
  const auto json = nlohmann::json::parse(console::ReadFile(dir + "/golden.json").value());
  const std::string raw = console::ReadFile(dir + "/golden_logits.f32").value();
  std::vector<Golden> goldens;
  for (const auto& entry : json) {
    Golden golden;
    golden.task = entry["task"];
    golden.ids = entry["ids"].get<std::vector<int32_t>>();
    golden.first_position = entry["logit_positions"][0];
    golden.logits.resize(size_t{entry["shape"][0]} * size_t{entry["shape"][1]});
    std::memcpy(golden.logits.data(), raw.data() + size_t{entry["byte_offset"]},
                golden.logits.size() * sizeof(float));
    goldens.push_back(std::move(golden));
  }
  return goldens;
}

double MaxDifference(absl::Span<const float> a, absl::Span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double max = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= max)) max = difference;  // keeps a NaN
  }
  return max;
}

// Every instruction set that this CPU runs.
class Forward : public testing::TestWithParam<const Kernels*> {
 protected:
  TinyModel model_ = TinyModel::Load(VARVE_TEST_DATA_DIR, {.kernels = GetParam()}).value();
};

TEST_P(Forward, ReproducesTheGoldenLogits) {
  const std::vector<Golden> goldens = ReadGoldens();
  ASSERT_EQ(goldens.size(), 2u);
  for (const Golden& golden : goldens) {
    SCOPED_TRACE(golden.task);
    const auto logits = Prefill(model_, golden.ids, {.logits_from = golden.first_position}, {});
    ASSERT_TRUE(logits.ok()) << logits.status();
    const double error = MaxDifference(*logits, golden.logits);
    EXPECT_LT(error, 1e-3);
    RecordProperty(golden.task + "_max_error", std::to_string(error));
    std::printf("%s, %s: largest error of %zu logits %.2e\n", model_.kernels().name,
                golden.task.c_str(), golden.logits.size(), error);
  }
}

TEST_P(Forward, PrefillInChunksIsBitForBitPrefillInOneGo) {
  const Golden golden = ReadGoldens()[1];
  const auto whole = Prefill(model_, golden.ids, {.chunk_tokens = 100000}, {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  for (const uint32_t chunk : {1000u, 333u, 64u, 31u}) {
    SCOPED_TRACE(chunk);
    const auto chunked = Prefill(model_, golden.ids, {.chunk_tokens = chunk}, {});
    ASSERT_TRUE(chunked.ok()) << chunked.status();
    EXPECT_EQ(*whole, *chunked);
  }
}

TEST_P(Forward, OneThreadAndManyAgreeBitForBit) {
  const auto single =
      TinyModel::Load(VARVE_TEST_DATA_DIR, {.threads = 1, .kernels = GetParam()}).value();
  const Golden golden = ReadGoldens()[0];
  EXPECT_EQ(Prefill(model_, golden.ids, {}, {}).value(),
            Prefill(single, golden.ids, {}, {}).value());
}

TEST_P(Forward, DecodeWithDenseAttentionEqualsPrefill) {
  const Golden golden = ReadGoldens()[0];
  const auto whole = Prefill(model_, golden.ids, {}, {}).value();
  DenseBackend backend(model_.config(), model_.kernels());
  KvBackend* const backends[] = {&backend};
  const size_t prompt = 200;  // inside a page and inside a block
  ASSERT_TRUE(
      Prefill(model_, absl::MakeSpan(golden.ids).first(prompt), {.chunk_tokens = 77}, backends)
          .ok());
  Decoder decoder(model_, backend, prompt);
  const size_t vocab = model_.config().vocab;
  for (size_t t = prompt; t < golden.ids.size(); ++t) {
    const auto logits = decoder.Step(golden.ids[t]);
    ASSERT_TRUE(logits.ok()) << logits.status();
    ASSERT_LT(MaxDifference(*logits, absl::MakeSpan(whole).subspan(t * vocab, vocab)), 1e-4)
        << "position " << t;
  }
}

// At position 0 a key is as it was before it was turned: from there Varve makes the model's own
// bits.
TEST_P(Forward, PageRopeTurnsKeysAsTheModelDoes) {
  const ModelConfig& config = model_.config();
  const page::RopeParameters rope = RopeOf(config);
  ASSERT_EQ(rope.Invalid(config.head_dim), std::nullopt);
  const page::RopeTable table(rope, config.head_dim);
  const std::vector<int32_t> ids = ReadGoldens()[0].ids;
  std::vector<float> x(config.hidden), q(config.QueryWidth()), v(config.KvWidth());
  std::vector<float> plain(config.KvWidth()), turned(config.KvWidth()), ours(config.KvWidth());
  for (uint32_t position = 0; position < config.max_positions; position += 61) {
    const absl::Span<const int32_t> token(&ids[position % ids.size()], 1);
    ASSERT_TRUE(model_.Embed(token, x.data()).ok());
    const uint32_t layer = position % config.layers;
    model_.LayerQkv(layer, x.data(), 1, 0, q.data(), plain.data(), v.data());
    model_.LayerQkv(layer, x.data(), 1, position, q.data(), turned.data(), v.data());
    const std::vector<uint32_t> positions(config.kv_heads, position);
    table.Apply(positions, {plain.data(), page::DType::kF32}, {ours.data(), page::DType::kF32});
    ASSERT_EQ(ours, turned) << "position " << position;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Forward, testing::ValuesIn(RunnableKernels()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace varve::model
