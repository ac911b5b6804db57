#include "fake_runtime.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace onnx_compress {
namespace {

size_t element_bytes(int type) {
  if (type == TYPE_INT64) return 8;
  if (type == TYPE_FLOAT || type == TYPE_INT32) return 4;
  return type == FLOAT16 || type == BFLOAT16 || type == UINT16 || type == INT16 ? 2 : 1;
}

OrtStatus* missing() { return new OrtStatus{"not found"}; }

OrtStatus* tensor_data(OrtValue* value, void** out) { return *out = value->bytes.data(), nullptr; }
OrtStatus* tensor_info(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) {
  return *out = new OrtTensorTypeAndShapeInfo(value->info), nullptr;
}
OrtStatus* element_type(const OrtTensorTypeAndShapeInfo* info, int* out) { return *out = info->type, nullptr; }
OrtStatus* rank(const OrtTensorTypeAndShapeInfo* info, size_t* out) { return *out = info->shape.size(), nullptr; }
OrtStatus* dimensions(const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t count) {
  return std::copy_n(info->shape.begin(), count, out), nullptr;
}

OrtStatus* no_float(const OrtKernelInfo*, const char*, float*) { return missing(); }
OrtStatus* no_floats(const OrtKernelInfo*, const char*, float*, size_t*) { return missing(); }
OrtStatus* integer(const OrtKernelInfo* info, const char* name, int64_t* out) {
  const auto found = info->integers.find(name);
  return found == info->integers.end() ? missing() : (*out = found->second, nullptr);
}
OrtStatus* string(const OrtKernelInfo* info, const char* name, char* out, size_t* size) {
  const auto found = info->strings.find(name);
  if (found == info->strings.end()) return missing();
  *size = found->second.size() + 1;
  return out ? (std::copy_n(found->second.c_str(), *size, out), nullptr) : nullptr;
}
OrtStatus* integers(const OrtKernelInfo* info, const char* name, int64_t* out, size_t* size) {
  const auto found = info->lists.find(name);
  if (found == info->lists.end()) return missing();
  *size = found->second.size();
  return out ? (std::copy(found->second.begin(), found->second.end(), out), nullptr) : nullptr;
}
OrtStatus* constant(const OrtKernelInfo* info, size_t index, int* is_constant, const OrtValue** out) {
  *out = index < info->constants.size() ? info->constants[index] : nullptr;
  return *is_constant = *out != nullptr, nullptr;
}

OrtStatus* input_count(const OrtKernelContext* context, size_t* out) { return *out = context->inputs.size(), nullptr; }
OrtStatus* input(const OrtKernelContext* context, size_t index, const OrtValue** out) { return *out = context->inputs[index], nullptr; }
OrtStatus* output(OrtKernelContext* context, size_t index, const int64_t* dims, size_t count, OrtValue** out) {
  *out = &context->outputs[index];
  **out = fake_tensor((*out)->info.type, Shape(dims, dims + count));
  return nullptr;
}

OrtStatus* parallel(const OrtKernelContext* context, void (*work)(void*, size_t), size_t total, size_t, void* data) {
  std::atomic<size_t> next{0};
  const auto take = [&] {
    for (size_t i = next++; i < total; i = next++) work(data, i);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < context->threads; ++i) others.emplace_back(take);
  take();
  for (std::thread& other : others) other.join();
  return nullptr;
}

template <class Pointer>
const void* slot(Pointer function) {
  return reinterpret_cast<const void*>(function);
}

}  // namespace

const OrtApi* fake_api() {
  static const OrtApi api = [] {
    OrtApi made{};
    made.slots[2] = slot(+[](const OrtStatus* status) { return status->message.c_str(); });
    made.slots[51] = slot(tensor_data), made.slots[65] = slot(tensor_info);
    made.slots[60] = slot(element_type), made.slots[61] = slot(rank), made.slots[62] = slot(dimensions);
    made.slots[85] = slot(no_float), made.slots[86] = slot(integer), made.slots[87] = slot(string), made.slots[163] = slot(integers);
    made.slots[162] = slot(no_floats);
    made.slots[88] = slot(input_count), made.slots[90] = slot(input), made.slots[91] = slot(output);
    made.slots[93] = slot(+[](OrtStatus* status) { delete status; });
    made.slots[99] = slot(+[](OrtTensorTypeAndShapeInfo* info) { delete info; });
    made.slots[249] = slot(constant), made.slots[274] = slot(parallel);
    return made;
  }();
  return &api;
}

OrtValue fake_tensor(int type, const Shape& shape) {
  return {{type, shape}, std::vector<uint8_t>(static_cast<size_t>(count_of(shape)) * element_bytes(type))};
}

OrtValue fake_floats(const Shape& shape) {
  OrtValue value = fake_tensor(TYPE_FLOAT, shape);
  float* to = reinterpret_cast<float*>(value.bytes.data());
  for (int64_t i = 0; i < count_of(shape); ++i) to[i] = static_cast<float>(i % 7 - 3) / 4;
  return value;
}

OrtValue fake_bytes(const uint8_t* data, size_t size) {
  return {{TYPE_UINT8, {static_cast<int64_t>(size)}}, std::vector<uint8_t>(data, data + size)};
}

}  // namespace onnx_compress
