// The attributes `activation` and `activation_parameters` (FORMAT.md, section 8).
#pragma once

#include "kernels.h"
#include "tensor.h"

namespace onnx_compress {

struct Activation {
  explicit Activation(const Attributes& attributes);

  // Whether all that it does is to keep sums in limits, those of `finish`.
  bool limits() const { return kind == ACTIVATION_NONE || kind == ACTIVATION_RELU || kind == ACTIVATION_CLIP; }
  // How sums are finished, with nothing added yet; where there is more to this activation, `ending` comes after it.
  Finish finish() const;
  // How sums end with this activation, and with nothing added yet.
  Ending ending() const { return {nullptr, nullptr, kind, parameters[0], parameters[1]}; }

  ActivationKind kind = ACTIVATION_NONE;
  float parameters[2] = {};
};

// The part of an output's sums, from `offset` on in y.
inline Finish of_output(const Finish& finish, int64_t output, int64_t offset) {
  return {finish.biases ? finish.biases + output : nullptr, finish.residual ? finish.residual + offset : nullptr, finish.low, finish.high};
}

}  // namespace onnx_compress
