// Errors of the payload format, with the numbers of FORMAT.md, section 1.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
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

// Of errors in parts of a job that run at the same time, the one of the lowest part, so that the message is always the same.
class FirstError {
 public:
  // No exception may cross the runtime's own frames: it is kept.
  template <class Work>
  void guard(int64_t part, const Work& work) {
    try {
      work();
    } catch (const Error& problem) {
      keep(part, problem);
    } catch (const std::exception& problem) {
      keep(part, Error(Fault::argument, problem.what()));
    }
  }
  // Once all parts have ended.
  void rethrow() const {
    if (error_) throw *error_;
  }

 private:
  void keep(int64_t part, const Error& problem) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_ || part < part_) error_.emplace(problem), part_ = part;
  }
  std::mutex mutex_;
  std::optional<Error> error_;
  int64_t part_ = 0;
};

}  // namespace onnx_compress
