#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/console/file_io.h"
#include "kvstore/base/status.h"
#include "tests/model/tiny_model.h"

namespace varve::model {
namespace {

using Json = nlohmann::json;

struct IntegerField {
  const char* name;
  uint32_t ModelConfig::*member;
  uint32_t multiple;
  uint32_t max;
};

// The limits keep every product of two of them within 32 bits and the RoPE table within 1 GiB.
constexpr IntegerField kIntegerFields[] = {
    {"hidden_size", &ModelConfig::hidden, kDimMultiple, 1 << 15},
    {"intermediate_size", &ModelConfig::ffn, kDimMultiple, 1 << 15},
    {"num_hidden_layers", &ModelConfig::layers, 1, 1 << 10},
    {"num_attention_heads", &ModelConfig::query_heads, 1, 1 << 10},
    {"num_key_value_heads", &ModelConfig::kv_heads, 1, 1 << 10},
    {"head_dim", &ModelConfig::head_dim, kDimMultiple, 1 << 10},
    {"vocab_size", &ModelConfig::vocab, kDimMultiple, 1 << 20},
    {"max_position_embeddings", &ModelConfig::max_positions, 1, 1 << 18},
};

absl::Status ReadInteger(const Json& json, const IntegerField& field, ModelConfig* config) {
  const auto it = json.find(field.name);
  if (it == json.end() || !it->is_number_unsigned() || it->get<uint64_t>() == 0 ||
      it->get<uint64_t>() > field.max || it->get<uint64_t>() % field.multiple != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", field.name, "\" is ", it == json.end() ? "missing" : it->dump(),
        ", must be a multiple of ", field.multiple, " in [", field.multiple, ", ", field.max, "]"));
  }
  config->*field.member = static_cast<uint32_t>(it->get<uint64_t>());
  return absl::OkStatus();
}

absl::StatusOr<double> ReadPositive(const Json& json, const char* name) {
  const auto it = json.find(name);
  if (it == json.end() || !it->is_number() || !(it->get<double>() > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", name, "\" is ", it == json.end() ? "missing" : it->dump(), ", must be above 0"));
  }
  return it->get<double>();
}

absl::StatusOr<ModelConfig> FromJson(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  ModelConfig config;
  for (const IntegerField& field : kIntegerFields) {
    VARVE_RETURN_IF_ERROR(ReadInteger(json, field, &config));
  }
  VARVE_ASSIGN_OR_RETURN(config.rope_theta, ReadPositive(json, "rope_theta"));
  VARVE_ASSIGN_OR_RETURN(const double eps, ReadPositive(json, "rms_norm_eps"));
  config.rms_eps = static_cast<float>(eps);
  if (config.query_heads % config.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"num_attention_heads\" ", config.query_heads,
                                                   " is not a multiple of \"num_key_value_heads\" ",
                                                   config.kv_heads));
  }
  const auto tied = json.find("tie_word_embeddings");
  if (tied == json.end() || *tied != true) {
    return absl::InvalidArgumentError("\"tie_word_embeddings\" must be true");
  }
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& path) {
  VARVE_ASSIGN_OR_RETURN(const std::string text, console::ReadFile(path));
  absl::StatusOr<ModelConfig> config =
      FromJson(Json::parse(text, nullptr, /*allow_exceptions=*/false));
  if (!config.ok()) return base::Annotate(config.status(), path);
  return config;
}

}  // namespace varve::model
