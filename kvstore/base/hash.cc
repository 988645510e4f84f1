#include "kvstore/base/hash.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <cstdlib>

namespace varve::base {

std::string Sha256(std::string_view bytes) {
  std::string digest(32, '\0');
  unsigned int length = 0;
  EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()), &length,
             EVP_sha256(), nullptr);
  return digest;
}

std::string ChainBlockHash(std::string_view parent, absl::Span<const int32_t> tokens) {
  std::string message(parent);
  message.reserve(parent.size() + tokens.size() * 4);
  for (int32_t token : tokens) {
    const uint32_t value = static_cast<uint32_t>(token);
    for (int shift = 0; shift < 32; shift += 8)
      message.push_back(static_cast<char>((value >> shift) & 0xff));
  }
  return Sha256(message);
}

std::string RandomBytes(size_t n) {
  std::string bytes(n, '\0');
  // Without randomness session ids could be guessed: there is no safe way on.
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(n)) != 1)
    std::abort();
  return bytes;
}

}  // namespace varve::base
