#include "tensor.h"

#include <mutex>

namespace onnx_compress {

std::string text_of(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

void check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  using Message = const char* (*)(const OrtStatus*);
  const std::string message = reinterpret_cast<Message>(const_cast<void*>(api->slots[2]))(status);
  ort::ReleaseStatus(api, status);
  fail(Fault::argument, "onnxruntime: ", message);
}

Tensor read_tensor(const OrtApi* api, const OrtValue* value) {
  Tensor tensor;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, ort::GetTensorTypeAndShape(api, value, &info));
  size_t rank = 0;
  OrtStatus* status = ort::GetTensorElementType(api, info, &tensor.type);
  if (status == nullptr) status = ort::GetDimensionsCount(api, info, &rank);
  tensor.shape.resize(rank);
  if (status == nullptr) status = ort::GetDimensions(api, info, tensor.shape.data(), rank);
  ort::ReleaseTensorTypeAndShapeInfo(api, info);
  check(api, status);
  void* data = nullptr;
  check(api, ort::GetTensorMutableData(api, const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return tensor;
}

bool Attributes::absent(OrtStatus* status) const {
  if (status == nullptr) return false;
  ort::ReleaseStatus(api_, status);
  return true;
}

int64_t Attributes::integer(const char* name, int64_t otherwise) const {
  int64_t value = otherwise;
  return absent(ort::KernelInfoGetAttribute_int64(api_, info_, name, &value)) ? otherwise : value;
}

float Attributes::real(const char* name, float otherwise) const {
  float value = otherwise;
  return absent(ort::KernelInfoGetAttribute_float(api_, info_, name, &value)) ? otherwise : value;
}

std::string Attributes::string(const char* name) const {
  size_t size = 0;
  if (absent(ort::KernelInfoGetAttribute_string(api_, info_, name, nullptr, &size)) || size == 0) return "";
  std::string value(size, '\0');
  if (absent(ort::KernelInfoGetAttribute_string(api_, info_, name, value.data(), &size))) return "";
  value.resize(size - 1);
  return value;
}

std::vector<float> Attributes::reals(const char* name) const {
  size_t size = 0;
  if (absent(ort::KernelInfoGetAttributeArray_float(api_, info_, name, nullptr, &size))) return {};
  std::vector<float> values(size);
  if (size && absent(ort::KernelInfoGetAttributeArray_float(api_, info_, name, values.data(), &size))) return {};
  return values;
}

std::vector<int64_t> Attributes::integers(const char* name) const {
  size_t size = 0;
  if (absent(ort::KernelInfoGetAttributeArray_int64(api_, info_, name, nullptr, &size))) return {};
  std::vector<int64_t> values(size);
  if (size && absent(ort::KernelInfoGetAttributeArray_int64(api_, info_, name, values.data(), &size))) return {};
  return values;
}

std::string Attributes::node_name() const {
  size_t size = 0;
  if (absent(ort::KernelInfo_GetNodeName(api_, info_, nullptr, &size)) || size == 0) return "";
  std::string name(size, '\0');
  if (absent(ort::KernelInfo_GetNodeName(api_, info_, name.data(), &size))) return "";
  name.resize(size - 1);
  return name;
}

std::optional<Tensor> Attributes::constant(size_t input) const {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  if (absent(ort::KernelInfoGetConstantInput_tensor(api_, info_, input, &is_constant, &value)) || !is_constant || value == nullptr)
    return {};
  return read_tensor(api_, value);
}

Run::Run(const OrtApi* api, OrtKernelContext* context) : api_(api), context_(context) {
  check(api_, ort::KernelContext_GetInputCount(api_, context_, &inputs_));
}

std::optional<Tensor> Run::input(size_t index) const {
  if (index >= inputs_) return {};
  const OrtValue* value = nullptr;
  check(api_, ort::KernelContext_GetInput(api_, context_, index, &value));
  if (value == nullptr) return {};
  return read_tensor(api_, value);
}

void* Run::output(const Shape& shape, size_t index) const {
  OrtValue* value = nullptr;
  check(api_, ort::KernelContext_GetOutput(api_, context_, index, shape.data(), shape.size(), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check(api_, ort::GetTensorMutableData(api_, value, &data));
  return data;
}

namespace {

struct Job {
  const std::function<void(int64_t)>& work;
  FirstError error;

  void call(int64_t index) {
    error.guard(index, [&] { work(index); });
  }
};

}  // namespace

void Run::parallel(int64_t count, const std::function<void(int64_t)>& work) const {
  Job job{work, {}};
  if (count == 1) {
    job.call(0);
  } else if (count > 1) {
    const auto call = [](void* data, size_t index) { static_cast<Job*>(data)->call(static_cast<int64_t>(index)); };
    check(api_, ort::KernelContext_ParallelFor(api_, context_, call, static_cast<size_t>(count), 0, &job));
  }
  job.error.rethrow();
}

}  // namespace onnx_compress
