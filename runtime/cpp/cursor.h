// A bounded reader of bytes: every read is checked, every error says where (FORMAT.md, section 1).
#pragma once

#include "error.h"

namespace onnx_compress {

class Cursor {
 public:
  Cursor(const uint8_t* data, uint64_t end) : data_(data), end_(end) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return end_ - position_; }
  void limit(uint64_t end) { end_ = end; }

  const uint8_t* take(uint64_t count, const char* what) {
    if (count > left())
      fail(Fault::truncated, "payload ends inside ", what, ": ", count, " bytes wanted at ", position_, ", ", left(), " left");
    position_ += count;
    return data_ + position_ - count;
  }

  uint8_t u8(const char* what) { return *take(1, what); }

  uint32_t u32(const char* what) {
    const uint8_t* bytes = take(4, what);
    return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
  }

  // "varint: unsigned LEB128, 7 bits a byte, least significant first, at most 5 bytes, value < 2^35."
  uint64_t varint(const char* what, uint64_t low = 0, uint64_t high = (uint64_t{1} << 35) - 1) {
    uint64_t value = 0;
    for (int shift = 0; shift < 35; shift += 7) {
      const uint8_t byte = u8(what);
      value |= uint64_t{byte & 127u} << shift;
      if (byte < 128) return within(value, low, high, what);
    }
    fail(Fault::format, what, ": a varint longer than five bytes at ", position_);
  }

  // "zigzag: a varint z that stands for (z >> 1) ^ -(z & 1)"; every zigzag of this draft is legal in -32768..32767.
  int32_t zigzag(const char* what) {
    const int64_t code = static_cast<int64_t>(varint(what));
    const int64_t value = (code >> 1) ^ -(code & 1);
    if (value < -32768 || value > 32767) fail(Fault::format, what, " is ", value, ", legal is -32768..32767");
    return static_cast<int32_t>(value);
  }

  uint8_t byte_in(const char* what, uint8_t low, uint8_t high) { return static_cast<uint8_t>(within(u8(what), low, high, what)); }

 private:
  static uint64_t within(uint64_t value, uint64_t low, uint64_t high, const char* what) {
    if (value < low || value > high) fail(Fault::format, what, " is ", value, ", legal is ", low, "..", high);
    return value;
  }

  const uint8_t* data_;
  uint64_t position_ = 0;
  uint64_t end_;
};

}  // namespace onnx_compress
