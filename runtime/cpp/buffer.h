// Aligned memory that a thread keeps: kernels run thousands of times and own no scratch memory otherwise
// (KernelContext_GetScratchBuffer crashes in CPU kernels of onnxruntime 1.20 and 1.22).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace onnx_compress {

class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::operator delete(memory_, std::align_val_t{64}); }

  // Room for `count` floats; what was there before is lost.
  float* floats(int64_t count) {
    if (count > count_) {
      ::operator delete(memory_, std::align_val_t{64});
      memory_ = nullptr, count_ = 0;
      memory_ = static_cast<float*>(::operator new(static_cast<size_t>(count) * sizeof(float), std::align_val_t{64}));
      count_ = count;
    }
    return memory_;
  }

 private:
  float* memory_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace onnx_compress
