// Decodes whatever bytes it is given, for the sanitizers and for fuzzers: `fuzz_decode CORPUS`, a file of payloads, each behind its length
// in four bytes (little-endian). Bytes that are refused are as good as bytes that decode; only a sanitizer's report is a failure.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>

#include "dispatch.h"
#include "restore.h"

namespace onnx_compress {
namespace {

// Mutated dims may announce more than is quick to decode.
constexpr int64_t MOST_VALUES = int64_t{1} << 20;

void decode_member(const uint8_t* data, uint64_t size, int64_t number, const Options& options) {
  const Weight weight(data, size, number, options, 0);
  const Member& member = weight.member();
  if (member.size() > MOST_VALUES) return;
  std::vector<float> out(static_cast<size_t>(member.size()));  // four bytes a value are enough for every dtype
  restore(weight, member.dtype, out.data(), [](int64_t count, const std::function<void(int64_t)>& work) {
    for (int64_t i = 0; i < count; ++i) work(i);
  });
}

// Whether all members decoded.
bool decode_all(const uint8_t* data, uint64_t size, const Options& options) {
  try {
    const size_t members = Weight(data, size, 0, options, 0).payload().members.size();
    for (size_t number = 0; number < members; ++number) decode_member(data, size, static_cast<int64_t>(number), options);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// With every decoder of this machine; whether the payload is a good one.
bool decode_everywhere(const uint8_t* data, uint64_t size) {
  bool good = true;
  for (const Kernels* kernels : machine_kernels()) {
    good = decode_all(data, size, {true, kernels}) && good;
    decode_all(data, size, {false, kernels});
  }
  return good;
}

}  // namespace
}  // namespace onnx_compress

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  onnx_compress::decode_everywhere(data, size);
  return 0;
}

#ifndef ONNX_COMPRESS_LIBFUZZER
int main(int count, char** arguments) {
  if (count != 2) return std::fputs("usage: fuzz_decode CORPUS\n", stderr), 2;
  std::ifstream file(arguments[1], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  size_t payloads = 0, decoded = 0;
  for (size_t at = 0; at + 4 <= bytes.size(); ++payloads) {
    uint32_t size = 0;
    std::memcpy(&size, bytes.data() + at, 4);
    if (size > bytes.size() - at - 4) return std::fputs("fuzz_decode: the corpus ends early\n", stderr), 2;
    // A copy of exactly this size: a read beyond it is seen.
    const std::unique_ptr<uint8_t[]> data(new uint8_t[size]);
    std::memcpy(data.get(), bytes.data() + at + 4, size);
    decoded += onnx_compress::decode_everywhere(data.get(), size);
    at += 4 + size;
  }
  std::printf("%zu payloads, %zu decoded, the others refused\n", payloads, decoded);
  return payloads == 0;
}
#endif
