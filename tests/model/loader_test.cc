// Damaged weights and configs: each is refused with a message that says what is wrong.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "client/console/file_io.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/safetensors.h"
#include "tests/model/tiny_model.h"

namespace varve::model {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr char kQuery[] = "model.layers.1.self_attn.q_proj.weight";

class Loader : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = testing::TempDir() + "varve_loader_" + info->name();
    std::filesystem::create_directories(dir_);
    config_ = console::ReadFile(std::string(VARVE_TEST_DATA_DIR) + "/config.json").value();
    weights_ = console::ReadFile(std::string(VARVE_TEST_DATA_DIR) + "/model.safetensors").value();
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void EditConfig(const std::function<void(Json&)>& edit) {
    Json json = Json::parse(config_);
    edit(json);
    config_ = json.dump();
  }
  void EditHeader(const std::function<void(Json&)>& edit) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, weights_.data(), sizeof(bytes));
    Json json = Json::parse(weights_.substr(sizeof(bytes), bytes));
    edit(json);
    const std::string header = json.dump();
    const std::string data = weights_.substr(sizeof(bytes) + bytes);
    bytes = header.size();
    weights_ = std::string(sizeof(bytes), '\0') + header + data;
    std::memcpy(weights_.data(), &bytes, sizeof(bytes));
  }
  absl::Status Load() {
    std::ofstream(dir_ + "/config.json", std::ios::binary) << config_;
    std::ofstream(dir_ + "/model.safetensors", std::ios::binary) << weights_;
    return TinyModel::Load(dir_).status();
  }
  void ExpectRefused(const std::string& message) {
    const absl::Status status = Load();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  std::string dir_, config_, weights_;
};

TEST_F(Loader, AcceptsWhatShips) { EXPECT_EQ(Load(), absl::OkStatus()); }

TEST_F(Loader, NamesAMissingFile) {
  const absl::Status status = TinyModel::Load(dir_ + "/nowhere").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nowhere/config.json"));
}

TEST_F(Loader, RefusesAnEmptyFile) {
  weights_.clear();
  ExpectRefused("too short for a safetensors header");
}

TEST_F(Loader, RefusesAHeaderLongerThanTheFile) {
  weights_.replace(0, 8, 8, '\xff');
  ExpectRefused("header length 18446744073709551615 exceeds");
}

TEST_F(Loader, RefusesAHeaderThatIsNotJson) {
  weights_[8] = '[';
  ExpectRefused("not a JSON object");
}

TEST_F(Loader, RefusesTruncatedData) {
  weights_.resize(weights_.size() - 4);
  ExpectRefused("\"data_offsets\" must be [begin, end) within");
}

TEST_F(Loader, RefusesAnotherDtype) {
  EditHeader([](Json& header) { header[kQuery]["dtype"] = "BF16"; });
  ExpectRefused(std::string("tensor ") + kQuery + ": dtype \"BF16\", only \"F32\"");
}

TEST_F(Loader, RefusesAShapeThatDoesNotMatchItsBytes) {
  EditHeader([](Json& header) { header[kQuery]["shape"] = {256, 127}; });
  ExpectRefused(std::string("tensor ") + kQuery + ": shape needs 130048 bytes");
}

TEST_F(Loader, RefusesAShapeWhoseSizeOverflows) {
  EditHeader([](Json& header) { header[kQuery]["shape"] = {uint64_t{1} << 62, 8}; });
  ExpectRefused("more than 2^32 elements");
}

TEST_F(Loader, RefusesNegativeOffsets) {
  EditHeader([](Json& header) { header[kQuery]["data_offsets"] = {-1, 4}; });
  ExpectRefused("must hold unsigned integers, found -1");
}

TEST_F(Loader, RefusesAShapeOtherThanTheConfigs) {
  EditHeader([](Json& header) { header[kQuery]["shape"] = {128, 256}; });
  ExpectRefused("has shape [128, 256], the config asks for [256, 128]");
}

TEST_F(Loader, NamesAMissingTensor) {
  EditHeader([](Json& header) { header.erase(kQuery); });
  ExpectRefused(std::string("tensor ") + kQuery + " is missing");
}

TEST_F(Loader, NamesATensorOfAnotherArchitecture) {
  EditHeader([](Json& header) { header["lm_head.weight"] = header["model.norm.weight"]; });
  ExpectRefused("tensor lm_head.weight is not part of this architecture");
}

TEST_F(Loader, RefusesAConfigThatIsNotJson) {
  config_ = "{";
  ExpectRefused("config.json: not a JSON object");
}

TEST_F(Loader, NamesAMissingConfigField) {
  EditConfig([](Json& config) { config.erase("head_dim"); });
  ExpectRefused("\"head_dim\" is missing");
}

TEST_F(Loader, RefusesConfigValuesOutOfRange) {
  EditConfig([](Json& config) { config["vocab_size"] = 250; });
  ExpectRefused("\"vocab_size\" is 250, must be a multiple of 16");
  EditConfig([](Json& config) { config["vocab_size"] = -256; });
  ExpectRefused("\"vocab_size\" is -256");
  EditConfig([](Json& config) { config["vocab_size"] = 256, config["rope_theta"] = 0; });
  ExpectRefused("\"rope_theta\" is 0, must be above 0");
}

TEST_F(Loader, RefusesHeadsThatDoNotDivide) {
  EditConfig([](Json& config) { config["num_key_value_heads"] = 3; });
  ExpectRefused("4 is not a multiple of \"num_key_value_heads\" 3");
}

TEST_F(Loader, RefusesAnUntiedEmbedding) {
  EditConfig([](Json& config) { config["tie_word_embeddings"] = false; });
  ExpectRefused("\"tie_word_embeddings\" must be true");
}

TEST_F(Loader, RefusesMoreLayersThanTheFileHas) {
  EditConfig([](Json& config) { config["num_hidden_layers"] = 4; });
  ExpectRefused("tensor model.layers.3.input_layernorm.weight is missing");
}

}  // namespace
}  // namespace varve::model
