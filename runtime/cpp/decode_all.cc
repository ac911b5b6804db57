// Decodes payloads on a machine that has no Python: `decode_all REQUESTS TENSORS SET`, with the kernels
// of this instruction set. A request is four numbers of four bytes (little-endian:
// the payload's length, a member, the tensor's length, 0) and the payload; the tensors are written one after the other.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int onnx_compress_decode(const uint8_t* payload, uint64_t size, uint32_t member, int verify_checksums,
                                    const char* instruction_set, uint32_t part, uint32_t parts, void* out, uint64_t out_bytes,
                                    char* message, uint64_t message_size);

int main(int count, char** arguments) {
  if (count != 4) return std::fputs("usage: decode_all REQUESTS TENSORS SET\n", stderr), 2;
  std::ifstream file(arguments[1], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::ofstream tensors(arguments[2], std::ios::binary);
  size_t decoded = 0;
  for (size_t at = 0; at < bytes.size(); ++decoded) {
    uint32_t numbers[4];
    std::memcpy(numbers, bytes.data() + at, sizeof numbers);
    std::vector<char> out(numbers[2]);
    char message[256];
    const auto payload = reinterpret_cast<const uint8_t*>(bytes.data() + at + sizeof numbers);
    if (const int fault =
            onnx_compress_decode(payload, numbers[0], numbers[1], 1, arguments[3], 0, 1, out.data(), out.size(), message, sizeof message))
      return std::fprintf(stderr, "request %zu: error %d: %s\n", decoded, fault, message), 1;
    tensors.write(out.data(), static_cast<std::streamsize>(out.size()));
    at += sizeof numbers + numbers[0];
  }
  std::printf("%zu decoded\n", decoded);
  return 0;
}
