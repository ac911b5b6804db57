// As much of onnxruntime's C interface as our operators use, for programs that run them without it: fuzzers and the thread sanitizer,
// which wants every byte of a process instrumented. Part of no library.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "operator.h"

struct OrtStatus {
  std::string message;
};

struct OrtTensorTypeAndShapeInfo {
  int type = 0;
  onnx_compress::Shape shape;
};

struct OrtValue {
  OrtTensorTypeAndShapeInfo info;
  std::vector<uint8_t> bytes;  // of exactly the tensor's size, so that the address sanitizer sees any access beyond it
};

// A node: attributes, and the inputs that are constant.
struct OrtKernelInfo {
  std::map<std::string, int64_t> integers;
  std::map<std::string, std::vector<int64_t>> lists;
  std::map<std::string, std::string> strings;
  std::vector<const OrtValue*> constants;  // null: not constant
};

// One run of a node.
struct OrtKernelContext {
  std::vector<const OrtValue*> inputs;  // null: absent
  OrtValue outputs[3];
  int threads = 1;  // of a parallel loop
};

namespace onnx_compress {

// The table of functions that operators are given.
const OrtApi* fake_api();

// A tensor of this element type, all zero.
OrtValue fake_tensor(int type, const Shape& shape);
OrtValue fake_floats(const Shape& shape);  // small numbers that differ
OrtValue fake_bytes(const uint8_t* data, size_t size);

}  // namespace onnx_compress
