// Harness: a payload that arrives only at Compute, at every operator, with whatever set of kernels is the fastest. The header's checksum is
// made right; activations fit the weight.
#include "dispatch.h"
#include "fake_runtime.h"
#include "fuzz.h"

namespace onnx_compress {
namespace {

constexpr int64_t MOST_VALUES = int64_t{1} << 16;

using Make = std::unique_ptr<Operator> (*)(const Attributes&, const Options&);

// Whether the operator accepted the payload, which is its input `place`.
bool computes(Make make, const OrtKernelInfo& node, std::vector<const OrtValue*> inputs, int output) {
  const OrtValue made = fake_tensor(output, {});
  OrtKernelContext context{std::move(inputs), {made, made, made}, 1};
  try {
    make(Attributes(fake_api(), &node), {false, machine_kernels().front()})->compute(Run(fake_api(), &context));
    return true;
  } catch (const Error&) {
    return false;
  }
}

bool multiplies(const OrtValue& payload, const Member& member) {
  Shape batches = member.dims.size() < 2 ? Shape{} : Shape(member.dims.begin(), member.dims.end() - 2);
  batches.insert(batches.end(), {3, member.k});
  const OrtValue x = fake_floats(batches), a = fake_floats({7, member.k}), bias = fake_floats({member.rows});
  const bool matmul = computes(make_matmul, {}, {&x, &payload, &bias}, TYPE_FLOAT);
  return computes(make_gemm, {}, {&a, &payload}, TYPE_FLOAT) || matmul;
}

// The payload as both matrices of a layer of several steps.
bool recurs(const OrtValue& payload, const Member& member) {
  const OrtValue x = fake_floats({3, 2, member.k});
  bool any = false;
  for (const auto& [make, gates] : {std::pair<Make, int64_t>{make_lstm, 4}, {make_gru, 3}}) {
    OrtKernelInfo node;
    node.integers["hidden_size"] = member.rows / gates;
    if (member.batch == 2) node.strings["direction"] = "bidirectional";
    any = computes(make, node, {&x, &payload, &payload}, TYPE_FLOAT) || any;
  }
  return any;
}

bool convolves(const OrtValue& payload, const Member& member) {
  if (member.dims.size() < 3 || member.dims.size() > 5) return false;
  const int64_t group = member.batch > 1 ? member.batch : member.dims[1] == 1 ? member.dims[0] : 1;
  Shape shape = {2, member.dims[1] * group};
  int64_t values = 2 * shape[1];
  for (size_t axis = 2; axis < member.dims.size(); ++axis) shape.push_back(member.dims[axis] + 3), values *= shape.back();
  if (values > MOST_VALUES) return false;
  OrtKernelInfo node;
  node.integers["group"] = group;
  const OrtValue x = fake_floats(shape);
  return computes(make_conv, node, {&x, &payload}, TYPE_FLOAT);
}

bool looks_up(const OrtValue& payload) {
  OrtValue indices = fake_tensor(TYPE_INT32, {3});
  indices.bytes[4] = 1, indices.bytes[8] = 2;
  const auto gather = [](const Attributes& attributes, const Options& options) { return make_gather(attributes, options, FLOAT); };
  const auto decompress = [](const Attributes& attributes, const Options& options) { return make_decompress(attributes, options, FLOAT); };
  const bool gathered = computes(gather, {}, {&payload, &indices}, TYPE_FLOAT);
  return computes(decompress, {}, {&payload}, TYPE_FLOAT) || gathered;
}

}  // namespace

bool try_bytes(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> bytes = repaired(data, size);
  const OrtValue payload = fake_bytes(bytes.data(), bytes.size());
  Member member;
  member.k = 5;  // of a payload that is refused
  try {
    member = parse(bytes.data(), bytes.size()).members.front();
  } catch (const Error&) {
  }
  if (member.size() > MOST_VALUES) return false;
  const bool multiplied = multiplies(payload, member), convolved = convolves(payload, member);
  const bool recurred = recurs(payload, member);
  return looks_up(payload) || multiplied || convolved || recurred;
}

}  // namespace onnx_compress
