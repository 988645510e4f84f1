// Reader of the evaluation sets eval_{task}_{length}.jsonl.gz: one prompt per line, as JSON
// {"id", "task", "len", "prompt": [ids], "turns": [{"feed": [ids], "answer": [ids]}, ...]}.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace varve::model {

struct EvalTurn {
  std::vector<int32_t> feed;  // given to the model after the prompt or the turn before; never empty
  std::vector<int32_t> answer;  // what it must then produce; never empty
};

struct EvalItem {
  std::vector<int32_t> prompt;
  std::vector<EvalTurn> turns;
};

struct EvalSet {
  std::string task;
  uint32_t length = 0;  // tokens in every prompt
  std::vector<EvalItem> items;
};

// NOT_FOUND for the first of these sets that DIR does not have, with those that it does.
absl::Status CheckEvalSets(const std::string& dir, absl::Span<const std::string> tasks,
                           absl::Span<const uint32_t> lengths);

// Reads DIR/eval_{task}_{length}.jsonl.gz, at most max_items prompts of it (0: all). Errors name
// the file and the line: NOT_FOUND (with the sets that DIR does have), DATA_LOSS for a damaged gzip
// file, INVALID_ARGUMENT for a line that is no such JSON, belongs to another task or length, or
// holds a token outside [0, vocab).
absl::StatusOr<EvalSet> ReadEvalSet(const std::string& dir, const std::string& task,
                                    uint32_t length, uint32_t vocab, uint32_t max_items);

}  // namespace varve::model
