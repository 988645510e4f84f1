// Addresses, descriptors and message headers of the UCX transport. The checksum is made right
// again, so that the fields behind it are reached; what decodes encodes to the same bytes.
#include <cstring>

#include "kvstore/transport/ucx_protocol.h"
#include "kvstore/transport/wire.h"
#include "tests/fuzz/fuzz.h"

namespace varve::fuzz {
namespace {

using namespace varve::transport;

// Without the checksum.
std::string Unsealed(const std::string& sealed) {
  return sealed.substr(0, sealed.size() - sizeof(uint64_t));
}

std::string Sealed(std::string_view bytes) {
  WireWriter writer;
  for (char c : bytes) writer.Put(c);
  return std::move(writer).Seal();
}

}  // namespace

std::vector<std::string> Seeds() {
  UcxAddress address;
  address.instance = 7;
  address.pid = 42;
  address.lanes = {{LaneKind::kShm, std::string(60, 's')}, {LaneKind::kTcp, std::string(90, 't')}};
  UcxDescriptor descriptor;
  descriptor.instance = 7;
  descriptor.region = 3;
  descriptor.address = 0x7f0000000000;
  descriptor.bytes = 1 << 20;
  descriptor.keys = {{LaneKind::kShm, std::string(35, 'k')}};
  Message message = MakeMessage(MessageType::kRead, 9, 11);
  message.head.pieces = 2;
  message.pieces[0] = {3, 0, 4096};
  message.pieces[1] = {3, 8192, 1};
  const std::string bare_address = Unsealed(Encode(address)),
                    bare_descriptor = Unsealed(Encode(descriptor));
  Require(DecodeAddress(Sealed(bare_address)).ok(), "a seed that is no address");
  Require(DecodeDescriptor(Sealed(bare_descriptor)).ok(), "a seed that is no descriptor");
  return {"A" + bare_address, "D" + bare_descriptor,
          "M" + std::string(reinterpret_cast<const char*>(&message), message.bytes())};
}

}  // namespace varve::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace varve::transport;
  using varve::fuzz::Require;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'M') {
    Message message;
    if (ParseMessage(bytes.data(), bytes.size(), &message)) {
      Require(message.bytes() == bytes.size() && message.head.pieces <= kMaxPieces,
              "a message of another size");
    }
    return 0;
  }
  const std::string sealed = varve::fuzz::Sealed(bytes);
  if (data[0] == 'A') {
    if (const auto address = DecodeAddress(sealed); address.ok()) {
      Require(Encode(*address) == sealed, "an address that encodes to other bytes");
    }
  } else if (const auto descriptor = DecodeDescriptor(sealed); descriptor.ok()) {
    Require(Encode(*descriptor) == sealed, "a descriptor that encodes to other bytes");
  }
  return 0;
}
