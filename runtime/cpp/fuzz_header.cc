// Harness: whatever bytes there are, the header is parsed or refused; so are the checksums of the streams.
#include "format.h"
#include "fuzz.h"

namespace onnx_compress {

bool try_bytes(const uint8_t* data, size_t size) {
  const auto accepted = [](const uint8_t* bytes, size_t count) {
    try {
      verify_checksums(parse(bytes, count));
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  const bool as_it_is = accepted(data, size);
  const std::vector<uint8_t> whole = repaired(data, size);
  accepted(whole.data(), whole.size());
  return as_it_is;
}

}  // namespace onnx_compress
