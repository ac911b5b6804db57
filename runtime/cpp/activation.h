// The attributes `activation` and `activation_parameters` (FORMAT.md, section 8).
#pragma once

#include "kernels.h"
#include "tensor.h"

namespace onnx_compress {

struct Activation {
  explicit Activation(const Attributes& attributes);

  // How sums end with this activation, and with nothing added yet.
  Ending ending() const { return {nullptr, nullptr, kind, parameters[0], parameters[1]}; }

  ActivationKind kind = ACTIVATION_NONE;
  float parameters[2] = {};
};

}  // namespace onnx_compress
