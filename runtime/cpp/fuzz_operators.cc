// Harness: a payload that arrives only at Compute, at every operator, with the fastest kernels. The header's checksum is made right;
// activations fit the weight.
#include "dispatch.h"
#include "fuzz.h"
#include "operator_cases.h"

namespace onnx_compress {
namespace {

// Dims may announce more than is quick to compute.
constexpr int64_t MOST_VALUES = int64_t{1} << 16, MOST_POSITIONS = int64_t{1} << 12;

bool quick(const Member& member) {
  int64_t positions = 1;
  for (size_t axis = 2; axis < member.dims.size(); ++axis) {
    if (member.dims[axis] > MOST_POSITIONS) return false;
    positions *= member.dims[axis] + 3;
    if (positions > MOST_POSITIONS) return false;
  }
  return member.size() <= MOST_VALUES;
}

bool computes(const Case& use, const OrtValue& payload) {
  const OrtValue made = fake_tensor(TYPE_FLOAT, {});
  OrtKernelContext context{use.inputs(payload), {made, made, made}, 1};
  try {
    use.make(Attributes(fake_api(), &use.node), {false, machine_kernels().front()})->compute(Run(fake_api(), &context));
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

bool try_bytes(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> bytes = repaired(data, size);
  const OrtValue payload = fake_bytes(bytes.data(), bytes.size());
  Member member;  // of a payload that is refused: one value
  try {
    member = parse(bytes.data(), bytes.size()).members.front();
  } catch (const Error&) {
  }
  if (!quick(member)) return false;
  bool computed = false;
  for (const Case& use : cases_for(member)) computed = computes(use, payload) || computed;
  return computed;
}

}  // namespace onnx_compress
