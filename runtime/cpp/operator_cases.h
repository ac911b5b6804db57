// Runs of our operators that fit a given weight, for programs without onnxruntime.
#pragma once

#include "fake_runtime.h"

namespace onnx_compress {

struct Case {
  std::unique_ptr<Operator> (*make)(const Attributes&, const Options&);
  OrtKernelInfo node;
  std::vector<size_t> payload_inputs;
  std::vector<OrtValue> others;  // the other inputs, in order

  std::vector<const OrtValue*> inputs(const OrtValue& payload) const;
};

// Every operator, with activations whose shapes are right for this member if the operator can take it at all, and so many times larger than
// they need be.
std::vector<Case> cases_for(const Member& member, int64_t times = 1);

}  // namespace onnx_compress
