// The entry of every harness. Without libFuzzer: `fuzz_NAME CORPUS`, a file of payloads, each behind its length in four bytes
// (little-endian).
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>

#include "fuzz.h"

#if defined(ONNX_COMPRESS_LIBFUZZER)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  onnx_compress::try_bytes(data, size);
  return 0;
}

#else

int main(int count, char** arguments) {
  if (count != 2) return std::fprintf(stderr, "usage: %s CORPUS\n", arguments[0]), 2;
  std::ifstream file(arguments[1], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  size_t payloads = 0, accepted = 0;
  for (size_t at = 0; at + 4 <= bytes.size(); ++payloads) {
    uint32_t size = 0;
    std::memcpy(&size, bytes.data() + at, 4);
    if (size > bytes.size() - at - 4) return std::fprintf(stderr, "%s: the corpus ends early\n", arguments[0]), 2;
    // A copy of exactly this size: a read beyond it is seen.
    const std::unique_ptr<uint8_t[]> data(new uint8_t[size]);
    std::memcpy(data.get(), bytes.data() + at + 4, size);
    accepted += onnx_compress::try_bytes(data.get(), size);
    at += 4 + size;
  }
  std::printf("%s: %zu payloads, %zu decoded, the others refused\n", std::strrchr(arguments[0], '/') + 1, payloads, accepted);
  return accepted == 0;
}

#endif
