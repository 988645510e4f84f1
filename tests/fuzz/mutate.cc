// Drives a fuzzer without libFuzzer: `fuzz_NAME RUNS SEED` mutates the fuzzer's own seeds. A crash
// names the run, which the same arguments repeat.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

namespace {

unsigned long long current_run = 0;

void Mutate(std::string& bytes, std::mt19937_64& random, const std::vector<std::string>& seeds) {
  const auto at = [&](size_t extra) { return random() % (bytes.size() + extra); };
  switch (random() % 8) {
    case 0:
      if (!bytes.empty()) bytes[at(0)] ^= static_cast<char>(1u << random() % 8);
      break;
    case 1:
      if (!bytes.empty()) bytes[at(0)] = static_cast<char>(random());
      break;
    case 2:
      bytes.insert(at(1), 1 + random() % 4, static_cast<char>(random()));
      break;
    case 3:
      if (!bytes.empty()) bytes.erase(at(0), 1 + random() % 8);
      break;
    case 4:
      bytes.resize(at(1));
      break;
    case 5: {  // an interesting number
      static constexpr uint64_t kNumbers[] = {
          0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff, 0x7fffffffffffffff, ~0ull};
      const uint64_t number = kNumbers[random() % std::size(kNumbers)];
      bytes.insert(at(1), reinterpret_cast<const char*>(&number), 1u << random() % 4);
      break;
    }
    case 6: {  // a piece of another seed
      const std::string& other = seeds[random() % seeds.size()];
      if (!other.empty()) bytes.insert(at(1), other.substr(random() % other.size(), random() % 64));
      break;
    }
    default:
      if (!bytes.empty()) bytes += bytes.substr(at(0), random() % 32);
  }
}

}  // namespace

namespace varve::fuzz {

void Require(bool held, const char* what) {
  if (held) return;
  std::fprintf(stderr, "run %llu: %s\n", current_run, what);
  std::abort();
}

}  // namespace varve::fuzz

namespace {

// An input that fills the memory fails its own run and nobody else's. Sanitizers reserve more than
// any limit.
void LimitMemory() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const rlimit limit = {8ull << 30, 8ull << 30};
  if (setrlimit(RLIMIT_AS, &limit) != 0) std::perror("setrlimit");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s RUNS SEED\n", argv[0]);
    return 2;
  }
  LimitMemory();
  const unsigned long long runs = std::strtoull(argv[1], nullptr, 10);
  std::mt19937_64 random(std::strtoull(argv[2], nullptr, 10));
  const std::vector<std::string> seeds = varve::fuzz::Seeds();
  for (current_run = 0; current_run < runs; ++current_run) {
    std::string bytes = seeds[current_run % seeds.size()];
    for (uint64_t m = current_run < seeds.size() ? 0 : 1 + random() % 6; m > 0; --m)
      Mutate(bytes, random, seeds);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }
  std::printf("%llu runs from %zu seeds, seed %s\n", runs, seeds.size(), argv[2]);
  return 0;
}
