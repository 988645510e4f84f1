// What a fuzzer needs to be a libFuzzer program: `varve_fuzz_NAME [FLAGS] CORPUS`. The fuzzer's own
// seeds are put into the first folder that is named.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

namespace varve::fuzz {

void Require(bool held, const char* what) {
  if (held) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

}  // namespace varve::fuzz

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::filesystem::path corpus = (*argv)[i];
    if (!std::filesystem::is_directory(corpus)) continue;
    const std::vector<std::string> seeds = varve::fuzz::Seeds();
    for (size_t s = 0; s < seeds.size(); ++s) {
      std::ofstream(corpus / ("seed" + std::to_string(s)), std::ios::binary) << seeds[s];
    }
    break;
  }
  return 0;
}
