// The part of onnxruntime's C interface that we use, declared by ourselves: no package registry ships the header. The table of function
// pointers is append-only; slots are those of API 18 and have run on onnxruntime 1.20.1, 1.22.1 and 1.32.0 (docs: FACTS, "The C
// interface").
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtKernelInfo;
struct OrtKernelContext;

struct OrtApi {
  const void* slots[275];  // as far as we reach; the real table is longer
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// Version 18: 26 words.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, void*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  size_t (*GetMayInplace)(int**, int**);
  void (*ReleaseMayInplace)(int*, int*);
  size_t (*GetAliasMap)(int**, int**);
  void (*ReleaseAliasMap)(int*, int*);
};

}  // extern "C"

static_assert(sizeof(void*) != 8 || sizeof(OrtCustomOp) == 208, "OrtCustomOp of API 18 has 26 words");

namespace onnx_compress::ort {

constexpr uint32_t API_VERSION = 18;
constexpr int CODE_FAIL = 1;
enum Characteristic : int { REQUIRED = 0, OPTIONAL = 1 };

template <size_t Slot, class... Arguments>
struct Function {
  OrtStatus* operator()(const OrtApi* api, Arguments... arguments) const {
    using Pointer = OrtStatus* (*)(Arguments...);
    return reinterpret_cast<Pointer>(const_cast<void*>(api->slots[Slot]))(arguments...);
  }
};

template <size_t Slot, class Object>
struct Release {
  void operator()(const OrtApi* api, Object* object) const {
    reinterpret_cast<void (*)(Object*)>(const_cast<void*>(api->slots[Slot]))(object);
  }
};

constexpr Function<0, int, const char*> CreateStatus;  // gives the status itself
constexpr Function<26, const char*, OrtCustomOpDomain**> CreateCustomOpDomain;
constexpr Function<27, OrtCustomOpDomain*, const OrtCustomOp*> CustomOpDomain_Add;
constexpr Function<28, OrtSessionOptions*, OrtCustomOpDomain*> AddCustomOpDomain;
constexpr Function<51, OrtValue*, void**> GetTensorMutableData;
constexpr Function<60, const OrtTensorTypeAndShapeInfo*, int*> GetTensorElementType;
constexpr Function<61, const OrtTensorTypeAndShapeInfo*, size_t*> GetDimensionsCount;
constexpr Function<62, const OrtTensorTypeAndShapeInfo*, int64_t*, size_t> GetDimensions;
constexpr Function<65, const OrtValue*, OrtTensorTypeAndShapeInfo**> GetTensorTypeAndShape;
constexpr Function<85, const OrtKernelInfo*, const char*, float*> KernelInfoGetAttribute_float;
constexpr Function<86, const OrtKernelInfo*, const char*, int64_t*> KernelInfoGetAttribute_int64;
constexpr Function<87, const OrtKernelInfo*, const char*, char*, size_t*> KernelInfoGetAttribute_string;
constexpr Function<88, const OrtKernelContext*, size_t*> KernelContext_GetInputCount;
constexpr Function<90, const OrtKernelContext*, size_t, const OrtValue**> KernelContext_GetInput;
constexpr Function<91, OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**> KernelContext_GetOutput;
constexpr Release<93, OrtStatus> ReleaseStatus;
constexpr Release<99, OrtTensorTypeAndShapeInfo> ReleaseTensorTypeAndShapeInfo;
constexpr Function<2, const OrtStatus*> GetErrorMessageRaw;
constexpr Function<162, const OrtKernelInfo*, const char*, float*, size_t*> KernelInfoGetAttributeArray_float;
constexpr Function<163, const OrtKernelInfo*, const char*, int64_t*, size_t*> KernelInfoGetAttributeArray_int64;
constexpr Function<230, const OrtKernelInfo*, size_t*> KernelInfo_GetInputCount;
constexpr Function<237, const OrtSessionOptions*, const char*, int*> HasSessionConfigEntry;
constexpr Function<238, const OrtSessionOptions*, const char*, char*, size_t*> GetSessionConfigEntry;
constexpr Function<244, const OrtKernelInfo*, char*, size_t*> KernelInfo_GetNodeName;
constexpr Function<249, const OrtKernelInfo*, size_t, int*, const OrtValue**> KernelInfoGetConstantInput_tensor;
constexpr Function<274, const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t, void*> KernelContext_ParallelFor;

}  // namespace onnx_compress::ort
