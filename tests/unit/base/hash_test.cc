#include "kvstore/base/hash.h"

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace varve::base {
namespace {

std::string Hex(const std::string& bytes) { return absl::BytesToHexString(bytes); }

// FIPS 180-2 appendix B and the empty message.
TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(Hex(Sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hex(Sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Hex(Sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Hex(Sha256(std::string(1000000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(ChainBlockHash, IsTheHashOfParentAndLittleEndianTokens) {
  const std::vector<int32_t> tokens = {1, 0x01020304, -1};
  const std::string message =
      "parent" + std::string("\x01\x00\x00\x00\x04\x03\x02\x01\xff\xff\xff\xff", 12);
  EXPECT_EQ(ChainBlockHash("parent", tokens), Sha256(message));
}

TEST(ChainBlockHash, DependsOnEveryTokenAndOnTheParent) {
  const std::vector<int32_t> tokens = {5, 6, 7, 8};
  std::set<std::string> hashes = {ChainBlockHash("a", tokens), ChainBlockHash("b", tokens),
                                  ChainBlockHash("a", {})};
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::vector<int32_t> changed = tokens;
    changed[i] ^= 1;
    hashes.insert(ChainBlockHash("a", changed));
  }
  EXPECT_EQ(hashes.size(), 3 + tokens.size());
}

TEST(RandomBytes, HaveTheLengthAndDiffer) {
  EXPECT_EQ(RandomBytes(0).size(), 0u);
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(RandomBytes(16));
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_EQ(seen.begin()->size(), 16u);
}

}  // namespace
}  // namespace varve::base
