// The one entry for programs that have no onnxruntime: tests, fast restore, fuzzing.
#include <cstring>

#include "dispatch.h"
#include "planes.h"
#include "restore.h"

#if defined(_WIN32)
#define ONNX_COMPRESS_EXPORT extern "C" __declspec(dllexport)
#else
#define ONNX_COMPRESS_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace onnx_compress {
namespace {

// Of the pieces of a weight, those of part `number` of `count`.
struct Part {
  int64_t number, count;
};

void decode_into(const Weight& weight, const Part& part, void* out, uint64_t out_bytes) {
  const Member& member = weight.member();
  const uint64_t expected = static_cast<uint64_t>(member.size() * element_bytes(member.dtype));
  const bool packed = (member.dtype == UINT4 || member.dtype == INT4) && out_bytes == (expected + 1) / 2 && out_bytes != expected;
  if (out_bytes != expected && !packed) fail(Fault::argument, "the output has ", out_bytes, " bytes, expected ", expected);
  if (part.number >= part.count || (packed && part.count > 1)) fail(Fault::argument, "part ", part.number, " of ", part.count);
  const Parallel serial = [&part](int64_t count, const std::function<void(int64_t)>& work) {
    for (int64_t i = part.number * count / part.count; i < (part.number + 1) * count / part.count; ++i) work(i);
  };
  if (!packed) return restore(weight, member.dtype, out, serial);
  std::vector<uint8_t> values(expected);
  restore(weight, member.dtype, values.data(), serial);
  pack_halves(values.data(), member.size(), static_cast<uint8_t*>(out));
}

int report(int number, const char* text, char* message, uint64_t message_size) {
  if (message == nullptr || message_size == 0) return number;
  const size_t length = std::min<size_t>(std::strlen(text), message_size - 1);
  std::memcpy(message, text, length);
  message[length] = '\0';
  return number;
}

}  // namespace
}  // namespace onnx_compress

// Decodes a whole tensor in its own dims and dtype (4-bit types: one value a byte, or packed where out_bytes says so); of `parts` parts of
// its chunks only number `part`, to its place in the tensor, so that threads can share one. `instruction_set` names the decoder, null or
// empty: the fastest; all give the same bits. Returns 0, or the number of FORMAT.md's error with its message.
ONNX_COMPRESS_EXPORT int onnx_compress_decode(const uint8_t* payload, uint64_t size, uint32_t member, int verify_checksums,
                                              const char* instruction_set, uint32_t part, uint32_t parts, void* out, uint64_t out_bytes,
                                              char* message, uint64_t message_size) {
  using namespace onnx_compress;
  try {
    const Options options{verify_checksums != 0, &kernels_named(instruction_set ? instruction_set : "")};
    const Weight weight(payload, size, member, options, 0);
    decode_into(weight, {part, parts}, out, out_bytes);
    return report(0, "", message, message_size);
  } catch (const Error& error) {
    return report(error.number(), error.what(), message, message_size);
  } catch (const std::exception& error) {
    return report(static_cast<int>(Fault::argument), error.what(), message, message_size);
  }
}
