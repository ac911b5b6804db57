// Aligned memory that a thread keeps: kernels run thousands of times and own no scratch memory otherwise
// (KernelContext_GetScratchBuffer crashes in CPU kernels of onnxruntime 1.20 and 1.22).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace onnx_compress {

class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::operator delete(memory_, alignment_); }

  // Room for `count` floats; what was there before is lost.
  float* floats(int64_t count) {
    if (count > count_) allocate(count, std::align_val_t{64});
    return memory_;
  }

  // The same for what is kept and read at every run: in large pages where it fills some, which take fewer steps to find.
  float* kept_floats(int64_t count) {
    const size_t whole = static_cast<size_t>(count) * sizeof(float) / LARGE_PAGE * LARGE_PAGE;
    if (whole == 0) return floats(count);
    allocate(count, std::align_val_t{LARGE_PAGE});
#if defined(__linux__)
    madvise(memory_, whole, MADV_HUGEPAGE);  // a wish: pages stay small where it is not granted
#endif
    return memory_;
  }

 private:
  static constexpr size_t LARGE_PAGE = size_t{1} << 21;

  void allocate(int64_t count, std::align_val_t alignment) {
    ::operator delete(memory_, alignment_);
    memory_ = nullptr, count_ = 0, alignment_ = alignment;
    memory_ = static_cast<float*>(::operator new(static_cast<size_t>(count) * sizeof(float), alignment));
    count_ = count;
  }

  std::align_val_t alignment_{64};
  float* memory_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace onnx_compress
