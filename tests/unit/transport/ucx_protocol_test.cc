#include "kvstore/transport/ucx_protocol.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"

namespace varve::transport {
namespace {

UcxAddress SomeAddress() {
  UcxAddress address{7, 1 << 16 | 13, {"boot", 8, 9}, 10, {}};
  address.lanes = {{LaneKind::kTcp, "abc"}, {LaneKind::kShm, std::string(300, 'x')}};
  return address;
}

TEST(UcxProtocolTest, AddressRoundTrip) {
  const auto decoded = DecodeAddress(Encode(SomeAddress()));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->instance, 7u);
  EXPECT_EQ(decoded->ucx_version, 1u << 16 | 13);
  EXPECT_TRUE(decoded->host == (HostIdentity{"boot", 8, 9}));
  EXPECT_EQ(decoded->pid, 10u);
  ASSERT_EQ(decoded->lanes.size(), 2u);
  EXPECT_EQ(decoded->lanes[0].kind, LaneKind::kTcp);
  EXPECT_EQ(decoded->lanes[1].worker, std::string(300, 'x'));
}

TEST(UcxProtocolTest, DescriptorRoundTripAndLimits) {
  UcxDescriptor descriptor{1, 2, 0x7000, 4096, {{LaneKind::kShm, "key"}}};
  const auto decoded = DecodeDescriptor(Encode(descriptor));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->region, 2u);
  EXPECT_EQ(decoded->address, 0x7000u);
  EXPECT_EQ(decoded->bytes, 4096u);
  EXPECT_EQ(decoded->keys[0].key, "key");
  descriptor.bytes = 0;
  EXPECT_FALSE(DecodeDescriptor(Encode(descriptor)).ok());
  for (uint64_t bytes : {kMaxRegionBytes + 1, uint64_t{UINT64_MAX}}) {
    descriptor.bytes = bytes;
    EXPECT_FALSE(DecodeDescriptor(Encode(descriptor)).ok()) << bytes;
  }
  descriptor.bytes = 1;
  descriptor.keys[0].kind = static_cast<LaneKind>(4);
  EXPECT_FALSE(DecodeDescriptor(Encode(descriptor)).ok());
  descriptor.keys.assign(9, {LaneKind::kShm, "key"});
  EXPECT_FALSE(DecodeDescriptor(Encode(descriptor)).ok());
}

TEST(UcxProtocolTest, RandomBytesAreNoAddressAndNoDescriptor) {
  std::mt19937 random(20261121);
  for (int i = 0; i < 20'000; ++i) {
    SCOPED_TRACE(absl::StrCat("seed 20261121, round ", i));
    std::string bytes(random() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    ASSERT_FALSE(DecodeAddress(bytes).ok());
    ASSERT_FALSE(DecodeDescriptor(bytes).ok());
  }
}

TEST(UcxProtocolTest, MessagesAreCheckedBeforeUse) {
  Message message = MakeMessage(MessageType::kRead, 5, 6);
  message.head.pieces = 2;
  message.pieces[0] = {1, 2, 3};
  message.pieces[1] = {4, 5, 6};
  Message parsed;
  ASSERT_TRUE(ParseMessage(&message, message.bytes(), &parsed));
  EXPECT_EQ(parsed.head.request, 6u);
  EXPECT_EQ(parsed.pieces[1].length, 6u);
  EXPECT_FALSE(ParseMessage(&message, message.bytes() - 1, &parsed));
  EXPECT_FALSE(ParseMessage(&message, message.bytes() + 1, &parsed));
  EXPECT_FALSE(ParseMessage(&message, 0, &parsed));
  EXPECT_FALSE(ParseMessage(&message, sizeof(MessageHead) - 1, &parsed));
  message.head.pieces = kMaxPieces + 1;
  EXPECT_FALSE(ParseMessage(&message, sizeof(Message) + sizeof(Piece), &parsed));
  message.head.pieces = 0;
  message.head.magic ^= 1;
  EXPECT_FALSE(ParseMessage(&message, message.bytes(), &parsed));
}

}  // namespace
}  // namespace varve::transport
