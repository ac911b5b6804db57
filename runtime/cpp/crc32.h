// crc32: the polynomial of zlib (FORMAT.md, section 1), eight bytes at a time.
#pragma once

#include <array>
#include <cstdint>

namespace onnx_compress {

// table[i][b]: what byte b contributes when i zero bytes follow it. After: Kounavis and Berry 2005 ("slicing by 8").
inline const std::array<std::array<uint32_t, 256>, 8>& crc32_tables() {
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> made{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t value = byte;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0u);
      made[0][byte] = value;
    }
    for (size_t i = 1; i < 8; ++i)
      for (size_t byte = 0; byte < 256; ++byte) made[i][byte] = made[i - 1][byte] >> 8 ^ made[0][made[i - 1][byte] & 255];
    return made;
  }();
  return tables;
}

inline uint32_t crc32(const uint8_t* data, uint64_t size) {
  const auto& t = crc32_tables();
  uint32_t crc = 0xFFFFFFFFu;
  for (; size >= 8; size -= 8, data += 8) {
    const uint32_t low = crc ^ (uint32_t{data[0]} | uint32_t{data[1]} << 8 | uint32_t{data[2]} << 16 | uint32_t{data[3]} << 24);
    crc = t[7][low & 255] ^ t[6][low >> 8 & 255] ^ t[5][low >> 16 & 255] ^ t[4][low >> 24] ^ t[3][data[4]] ^ t[2][data[5]] ^ t[1][data[6]] ^
          t[0][data[7]];
  }
  for (; size; --size) crc = crc >> 8 ^ t[0][(crc ^ *data++) & 255];
  return ~crc;
}

}  // namespace onnx_compress
