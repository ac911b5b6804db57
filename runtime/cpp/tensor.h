// What operators see of onnxruntime: tensors, attributes, and a parallel loop. Statuses become exceptions here.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "error.h"
#include "ort_abi.h"

namespace onnx_compress {

using Shape = std::vector<int64_t>;

inline int64_t count_of(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

std::string text_of(const Shape& shape);

// Throws the status' message, if there is one.
void check(const OrtApi* api, OrtStatus* status);

struct Tensor {
  const void* data = nullptr;
  int type = 0;
  Shape shape;

  int64_t count() const { return count_of(shape); }
};

Tensor read_tensor(const OrtApi* api, const OrtValue* value);

// The attributes of a node, at kernel creation.
class Attributes {
 public:
  Attributes(const OrtApi* api, const OrtKernelInfo* info) : api_(api), info_(info) {}
  int64_t integer(const char* name, int64_t otherwise) const;
  float real(const char* name, float otherwise) const;
  std::string string(const char* name) const;
  std::vector<float> reals(const char* name) const;
  std::vector<int64_t> integers(const char* name) const;
  std::string node_name() const;
  std::optional<Tensor> constant(size_t input) const;

 private:
  bool absent(OrtStatus* status) const;
  const OrtApi* api_;
  const OrtKernelInfo* info_;
};

// The inputs and outputs of one run.
class Run {
 public:
  Run(const OrtApi* api, OrtKernelContext* context);
  std::optional<Tensor> input(size_t index) const;
  // Null where the node has no output of that number.
  void* output(const Shape& shape, size_t index = 0) const;
  // Calls work(0) .. work(count - 1), perhaps at the same time; throws the first error of the lowest index.
  void parallel(int64_t count, const std::function<void(int64_t)>& work) const;

 private:
  const OrtApi* api_;
  OrtKernelContext* context_;
  size_t inputs_ = 0;
};

}  // namespace onnx_compress
