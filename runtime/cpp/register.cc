// The door through which onnxruntime comes: RegisterCustomOps.
#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "dispatch.h"
#include "operator.h"

#if defined(_WIN32)
#define ONNX_COMPRESS_EXPORT extern "C" __declspec(dllexport)
#else
#define ONNX_COMPRESS_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace onnx_compress {
namespace {

enum class Kind { matmul, gemm, conv, gather, decompress, lstm, gru };

// One operator for one combination of types. onnxruntime merges all of one name into one schema, and takes the output's type from the one
// whose input types fit: this is how an operator gets its output's type (from X, or from `like`), on every runtime since 1.17.
// "Decompress with `parts` has as many outputs, at most 64"
constexpr size_t DECOMPRESS_OUTPUTS = 64;

struct Definition : OrtCustomOp {
  Kind kind;
  const char* name;
  std::array<int, 9> inputs;  // element types
  size_t input_count, required;
  int output;  // element type of all
  size_t output_count;
  Options options;
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
      return make_matmul(attributes, def.options);
    case Kind::gemm:
      return make_gemm(attributes, def.options);
    case Kind::conv:
      return make_conv(attributes, def.options);
    case Kind::gather:
      return make_gather(attributes, def.options, def.output);
    case Kind::lstm:
      return make_lstm(attributes, def.options);
    case Kind::gru:
      return make_gru(attributes, def.options);
    default:
      return make_decompress(attributes, def.options, def.output);
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

bool is_recurrent(Kind kind) { return kind == Kind::lstm || kind == Kind::gru; }

Definition define(Kind kind, const char* name, std::initializer_list<int> inputs, int output, const Options& options) {
  Definition def{};
  def.version = ort::API_VERSION;
  def.kind = kind, def.name = name, def.output = output, def.options = options;
  def.required = kind == Kind::decompress ? 1 : is_recurrent(kind) ? 3 : 2;
  def.output_count = kind == Kind::lstm ? 3 : kind == Kind::gru ? 2 : kind == Kind::decompress ? DECOMPRESS_OUTPUTS : 1;
  for (const int type : inputs) def.inputs[def.input_count++] = type;
  def.GetName = [](const OrtCustomOp* op) { return definition(op).name; };
  def.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  def.GetInputType = [](const OrtCustomOp* op, size_t i) { return definition(op).inputs[i]; };
  def.GetInputTypeCount = [](const OrtCustomOp* op) { return definition(op).input_count; };
  def.GetOutputType = [](const OrtCustomOp* op, size_t) { return definition(op).output; };
  def.GetOutputTypeCount = [](const OrtCustomOp* op) { return definition(op).output_count; };
  def.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  def.GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) -> int {
    return i < definition(op).required ? ort::REQUIRED : ort::OPTIONAL;
  };
  def.GetOutputCharacteristic = [](const OrtCustomOp* op, size_t i) -> int {
    return i > 0 || is_recurrent(definition(op).kind) ? ort::OPTIONAL : ort::REQUIRED;
  };
  def.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
  def.GetVariadicInputMinArity = def.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  def.GetVariadicInputHomogeneity = def.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  def.CreateKernelV2 = create_kernel;
  def.KernelComputeV2 = compute_kernel;
  def.GetStartVersion = def.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  return def;
}

std::vector<Definition> all_definitions(const Options& options) {
  std::vector<Definition> all;
  for (const int type : {FLOAT, FLOAT16}) {
    all.push_back(define(Kind::matmul, "CompressedMatMul", {type, TYPE_UINT8, type, type, TYPE_UINT8}, type, options));
    all.push_back(define(Kind::gemm, "CompressedGemm", {type, TYPE_UINT8, type, type, TYPE_UINT8}, type, options));
    all.push_back(define(Kind::conv, "CompressedConv", {type, TYPE_UINT8, type, type, TYPE_UINT8}, type, options));
    const auto lstm = {type, int{TYPE_UINT8}, int{TYPE_UINT8}, type, int{TYPE_INT32}, type, type, type, int{TYPE_UINT8}};
    const auto gru = {type, int{TYPE_UINT8}, int{TYPE_UINT8}, type, int{TYPE_INT32}, type, int{TYPE_UINT8}};
    all.push_back(define(Kind::lstm, "CompressedLSTM", lstm, type, options));
    all.push_back(define(Kind::gru, "CompressedGRU", gru, type, options));
  }
  // Float first: where `like` is absent, the first that fits decides.
  for (const int type : {FLOAT, FLOAT16, BFLOAT16, UINT8, INT8, UINT16, INT16, INT32, INT64, DOUBLE, UINT32, UINT64, FLOAT8E4M3FN,
                         FLOAT8E4M3FNUZ, FLOAT8E5M2, FLOAT8E5M2FNUZ, UINT4, INT4}) {
    all.push_back(define(Kind::decompress, "Decompress", {TYPE_UINT8, type, TYPE_UINT8}, type, options));
    for (const int index : {TYPE_INT64, TYPE_INT32})
      if (type != UINT4 && type != INT4)
        all.push_back(define(Kind::gather, "CompressedGather", {TYPE_UINT8, index, type, TYPE_UINT8}, type, options));
  }
  return all;
}

// Definitions must live as long as any session, which may outlive the statics of this library; they are the same for all sessions that
// chose the same.
std::vector<Definition>& definitions(const Options& options) {
  static std::mutex mutex;
  static auto& kept = *new std::map<std::tuple<bool, const Kernels*, bool>, std::vector<Definition>>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [place, added] = kept.try_emplace({options.checksums, options.kernels, options.dense});
  if (added) place->second = all_definitions(options);
  return place->second;
}

// The session config entry of this name; empty where there is none.
std::string entry(const OrtApi* api, const OrtSessionOptions* session, const char* key) {
  int has = 0;
  check(api, ort::HasSessionConfigEntry(api, session, key, &has));
  size_t size = 0;
  if (!has) return "";
  check(api, ort::GetSessionConfigEntry(api, session, key, nullptr, &size));
  std::string value(size, '\0');
  check(api, ort::GetSessionConfigEntry(api, session, key, value.data(), &size));
  value.resize(size - 1);
  return value;
}

// The place of the entry's value among those that are legal; 0 where there is no entry.
size_t chosen(const OrtApi* api, const OrtSessionOptions* session, const char* key, const std::vector<std::string>& legal) {
  const std::string value = entry(api, session, key);
  const auto found = std::find(legal.begin(), legal.end(), value.empty() ? legal.front() : value);
  if (found == legal.end()) fail(Fault::argument, key, " is '", value, "', legal is ", legal.front(), " and ", legal.back());
  return static_cast<size_t>(found - legal.begin());
}

Options options_of(const OrtApi* api, const OrtSessionOptions* session) {
  Options options;
  options.checksums = chosen(api, session, "onnx_compress.verify_checksums", {"0", "1"}) == 1;
  options.kernels = &kernels_named(entry(api, session, "onnx_compress.instruction_set"));
  options.dense = chosen(api, session, "onnx_compress.residency", {"tile", "dense"}) == 1;
  return options;
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
    std::vector<Definition>& all = definitions(options_of(api, options));
    OrtCustomOpDomain* domain = nullptr;  // lives as long as the process: a session may outlive the options
    check(api, ort::CreateCustomOpDomain(api, "onnx_compress", &domain));
    for (Definition& def : all) check(api, ort::CustomOpDomain_Add(api, domain, &def));
    check(api, ort::AddCustomOpDomain(api, options, domain));
  });
}

ONNX_COMPRESS_EXPORT const char* onnx_compress_version() { return ONNX_COMPRESS_VERSION; }
