// The door through which onnxruntime comes: RegisterCustomOps.
#include <array>
#include <cstring>
#include <string>

#include "operator.h"

#if defined(_WIN32)
#define ONNX_COMPRESS_EXPORT extern "C" __declspec(dllexport)
#else
#define ONNX_COMPRESS_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace onnx_compress {
namespace {

enum class Kind { matmul, gemm, conv, gather, decompress };

// One operator for one combination of types. onnxruntime merges all of one name into one schema, and takes the output's type from the one
// whose input types fit: this is how an operator gets its output's type (from X, or from `like`), on every runtime since 1.17.
struct Definition : OrtCustomOp {
  Kind kind;
  const char* name;
  std::array<int, 5> inputs;  // element types
  std::array<int, 5> characteristics;
  size_t input_count;
  int output;
  bool checksums;
};

const Definition& definition(const OrtCustomOp* op) { return *static_cast<const Definition*>(op); }

struct Kernel {
  const OrtApi* api;
  std::string name;
  std::unique_ptr<Operator> work;
};

OrtStatus* make_status(const OrtApi* api, const std::string& message) { return ort::CreateStatus(api, ort::CODE_FAIL, message.c_str()); }

constexpr const char* FAULT_NAMES[] = {"", "format", "truncated", "corruption", "unsupported version", "argument"};

// Runs `work` and turns what it throws into a status that names the node: no exception may enter the runtime.
template <class Work>
OrtStatus* guarded(const OrtApi* api, const std::string& where, const Work& work) {
  try {
    work();
    return nullptr;
  } catch (const Error& error) {
    return make_status(api, "onnx-compress: " + where + ": " + error.what() + " (" + FAULT_NAMES[error.number()] + " error)");
  } catch (const std::exception& error) {
    return make_status(api, "onnx-compress: " + where + ": " + error.what());
  }
}

std::unique_ptr<Operator> make_operator(const Definition& def, const Attributes& attributes) {
  switch (def.kind) {
    case Kind::matmul:
      return make_matmul(attributes, def.checksums);
    case Kind::gemm:
      return make_gemm(attributes, def.checksums);
    case Kind::conv:
      return make_conv(attributes, def.checksums);
    case Kind::gather:
      return make_gather(attributes, def.checksums, def.output);
    default:
      return make_decompress(attributes, def.checksums, def.output);
  }
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** out) {
  const Attributes attributes(api, info);
  const std::string where = "node '" + attributes.node_name() + "' (" + definition(op).name + ")";
  return guarded(api, where, [&] { *out = new Kernel{api, where, make_operator(definition(op), attributes)}; });
}

OrtStatus* compute_kernel(void* kernel, OrtKernelContext* context) {
  const Kernel& self = *static_cast<const Kernel*>(kernel);
  return guarded(self.api, self.name, [&] { self.work->compute(Run(self.api, context)); });
}

Definition define(Kind kind, const char* name, std::initializer_list<int> inputs, int output, bool checksums) {
  Definition def{};
  def.version = ort::API_VERSION;
  def.kind = kind, def.name = name, def.output = output, def.checksums = checksums;
  const size_t required = kind == Kind::decompress ? 1 : 2;
  for (const int type : inputs) {
    def.characteristics[def.input_count] = def.input_count < required ? ort::REQUIRED : ort::OPTIONAL;
    def.inputs[def.input_count++] = type;
  }
  def.GetName = [](const OrtCustomOp* op) { return definition(op).name; };
  def.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  def.GetInputType = [](const OrtCustomOp* op, size_t i) { return definition(op).inputs[i]; };
  def.GetInputTypeCount = [](const OrtCustomOp* op) { return definition(op).input_count; };
  def.GetOutputType = [](const OrtCustomOp* op, size_t) { return definition(op).output; };
  def.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  def.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  def.GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) { return definition(op).characteristics[i]; };
  def.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) -> int { return ort::REQUIRED; };
  def.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
  def.GetVariadicInputMinArity = def.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  def.GetVariadicInputHomogeneity = def.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  def.CreateKernelV2 = create_kernel;
  def.KernelComputeV2 = compute_kernel;
  def.GetStartVersion = def.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  return def;
}

std::vector<Definition> all_definitions(bool checksums) {
  std::vector<Definition> all;
  for (const int type : {FLOAT, FLOAT16}) {
    all.push_back(define(Kind::matmul, "CompressedMatMul", {type, TYPE_UINT8, type, type, TYPE_UINT8}, type, checksums));
    all.push_back(define(Kind::gemm, "CompressedGemm", {type, TYPE_UINT8, type, type, TYPE_UINT8}, type, checksums));
    all.push_back(define(Kind::conv, "CompressedConv", {type, TYPE_UINT8, type, type, TYPE_UINT8}, type, checksums));
  }
  // Float first: where `like` is absent, the first that fits decides.
  for (const int type : {FLOAT, FLOAT16, BFLOAT16, UINT8, INT8, UINT16, INT16, INT32, INT64, DOUBLE, UINT32, UINT64, FLOAT8E4M3FN,
                         FLOAT8E4M3FNUZ, FLOAT8E5M2, FLOAT8E5M2FNUZ, UINT4, INT4}) {
    all.push_back(define(Kind::decompress, "Decompress", {TYPE_UINT8, type, TYPE_UINT8}, type, checksums));
    for (const int index : {TYPE_INT64, TYPE_INT32})
      if (type != UINT4 && type != INT4)
        all.push_back(define(Kind::gather, "CompressedGather", {TYPE_UINT8, index, type, TYPE_UINT8}, type, checksums));
  }
  return all;
}

// Definitions must live as long as any session; they are the same for all, but for the checksums.
std::vector<Definition>& definitions(bool checksums) {
  static std::vector<Definition> plain = all_definitions(false), checked = all_definitions(true);
  return checksums ? checked : plain;
}

bool wants_checksums(const OrtApi* api, const OrtSessionOptions* options) {
  constexpr const char* KEY = "onnx_compress.verify_checksums";
  int has = 0;
  check(api, ort::HasSessionConfigEntry(api, options, KEY, &has));
  if (!has) return false;
  char value[8] = {};
  size_t size = sizeof value;
  check(api, ort::GetSessionConfigEntry(api, options, KEY, value, &size));
  return std::strcmp(value, "1") == 0;
}

OrtStatus* refuse(const OrtApiBase* base) {
  for (uint32_t version = ort::API_VERSION; version-- > 1;)
    if (const OrtApi* old = base->GetApi(version))
      return make_status(
          old, std::string("onnx-compress needs onnxruntime 1.18 or newer, this is ") + base->GetVersionString() + ": upgrade onnxruntime");
  return nullptr;
}

}  // namespace
}  // namespace onnx_compress

ONNX_COMPRESS_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace onnx_compress;
  const OrtApi* api = base->GetApi(ort::API_VERSION);
  if (api == nullptr) return refuse(base);
  return guarded(api, "registering the operators", [&] {
    OrtCustomOpDomain* domain = nullptr;  // lives as long as the process: a session may outlive the options
    check(api, ort::CreateCustomOpDomain(api, "onnx_compress", &domain));
    for (Definition& def : definitions(wants_checksums(api, options))) check(api, ort::CustomOpDomain_Add(api, domain, &def));
    check(api, ort::AddCustomOpDomain(api, options, domain));
  });
}

ONNX_COMPRESS_EXPORT const char* onnx_compress_version() { return ONNX_COMPRESS_VERSION; }
