// A fuzzing harness is one function; fuzz_entry.cc calls it for libFuzzer, or for each payload of a file.
#pragma once

#include <cstdint>
#include <vector>

#include "crc32.h"

namespace onnx_compress {

// Does to these bytes whatever the harness tests. Bytes that are refused are as good as bytes that are not; only a sanitizer's report, a
// crash or an abort is a failure. Whether they were accepted.
bool try_bytes(const uint8_t* data, size_t size);

// The bytes with the header's checksum made right, which no mutation would find.
inline std::vector<uint8_t> repaired(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  if (size < 12) return bytes;
  const uint64_t header_bytes = uint64_t{data[4]} | uint64_t{data[5]} << 8 | uint64_t{data[6]} << 16 | uint64_t{data[7]} << 24;
  if (header_bytes < 12 || header_bytes > size) return bytes;
  const uint32_t crc = crc32(data, header_bytes - 4);
  for (size_t i = 0; i < 4; ++i) bytes[header_bytes - 4 + i] = static_cast<uint8_t>(crc >> (8 * i));
  return bytes;
}

}  // namespace onnx_compress
