#include "operator_cases.h"

#include <cstring>

namespace onnx_compress {
namespace {

Case multiplication(const Member& member, int64_t times) {
  Shape x = member.dims.size() < 2 ? Shape{} : Shape(member.dims.begin(), member.dims.end() - 2);
  x.insert(x.end(), {3 * times, member.k});
  return {make_matmul, {}, {1}, {fake_floats(x), fake_floats({member.rows})}};
}

// The payload as both matrices of a layer of several steps.
Case recurrence(decltype(Case::make) make, int64_t gates, const Member& member) {
  OrtKernelInfo node;
  node.integers["hidden_size"] = member.rows / gates;
  if (member.batch == 2) node.strings["direction"] = "bidirectional";
  return {make, node, {1, 2}, {fake_floats({3, 2, member.k})}};
}

// With as many outputs as inputs where `same`, else without padding.
Case convolution(const Member& member, int64_t times, bool same) {
  const int64_t group = member.batch > 1 ? member.batch : member.dims[1] == 1 ? member.dims[0] : 1;
  Shape x = {2 * times, member.dims[1] * group};
  for (size_t axis = 2; axis < member.dims.size(); ++axis) x.push_back(member.dims[axis] + 3);
  OrtKernelInfo node;
  node.integers["group"] = group;
  if (same) node.strings["auto_pad"] = "SAME_UPPER";
  return {make_conv, node, {1}, {fake_floats(x), fake_floats({member.dims[0]})}};
}

std::unique_ptr<Operator> gather(const Attributes& attributes, const Options& options) { return make_gather(attributes, options, FLOAT); }

// Rows of every panel, up to some hundred.
Case lookup(const Member& member) {
  std::vector<int32_t> rows;
  for (int64_t row = 0; row < member.rows && rows.size() < 300; row += 24) rows.push_back(static_cast<int32_t>(row));
  OrtValue indices = fake_tensor(TYPE_INT32, {static_cast<int64_t>(rows.size())});
  std::memcpy(indices.bytes.data(), rows.data(), indices.bytes.size());
  return {gather, {}, {0}, {indices}};
}

std::unique_ptr<Operator> decompress(const Attributes& attributes, const Options& options) {
  return make_decompress(attributes, options, FLOAT);
}

}  // namespace

std::vector<const OrtValue*> Case::inputs(const OrtValue& payload) const {
  std::vector<const OrtValue*> all;
  for (const OrtValue& other : others) all.push_back(&other);
  for (const size_t place : payload_inputs) all.insert(all.begin() + static_cast<std::ptrdiff_t>(place), &payload);
  return all;
}

std::vector<Case> cases_for(const Member& member, int64_t times) {
  std::vector<Case> cases = {multiplication(member, times),
                             {make_gemm, {}, {1}, {fake_floats({7, member.k})}},
                             lookup(member),
                             {decompress, {}, {0}, {}},
                             recurrence(make_lstm, 4, member),
                             recurrence(make_gru, 3, member)};
  for (const bool same : {false, true})
    if (member.dims.size() >= 3 && member.dims.size() <= 5) cases.push_back(convolution(member, times, same));
  return cases;
}

}  // namespace onnx_compress
