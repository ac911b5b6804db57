// Errors of the payload format, with the numbers of FORMAT.md, section 1.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace onnx_compress {

enum class Fault : int { format = 1, truncated = 2, corruption = 3, version = 4, argument = 5 };

class Error : public std::runtime_error {
 public:
  Error(Fault fault, const std::string& message) : std::runtime_error(message), fault_(fault) {}
  Fault fault() const { return fault_; }
  int number() const { return static_cast<int>(fault_); }

 private:
  Fault fault_;
};

inline std::string text(const std::string& part) { return part; }
inline std::string text(const char* part) { return part; }
template <class Number>
std::string text(Number number) {
  return std::to_string(number);
}

// Throws an error whose message is the parts in a row.
template <class... Parts>
[[noreturn]] void fail(Fault fault, const Parts&... parts) {
  std::string message;
  (message.append(text(parts)), ...);
  throw Error(fault, message);
}

}  // namespace onnx_compress
