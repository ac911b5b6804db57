#include "activation.h"

#include <algorithm>

namespace onnx_compress {
namespace {

struct Known {
  const char* name;
  ActivationKind kind;
  size_t parameters;
};

constexpr Known KNOWN[] = {
    {"", ACTIVATION_NONE, 0},
    {"Relu", ACTIVATION_RELU, 0},
    {"Clip", ACTIVATION_CLIP, 2},
    {"LeakyRelu", ACTIVATION_LEAKY_RELU, 1},
    {"HardSigmoid", ACTIVATION_HARD_SIGMOID, 2},
    {"HardSwish", ACTIVATION_MUL_HARD_SIGMOID, 0},
    {"Sigmoid", ACTIVATION_SIGMOID, 0},
    {"Tanh", ACTIVATION_TANH, 0},
    {"MulHardSigmoid", ACTIVATION_MUL_HARD_SIGMOID, 2},
    {"MulSigmoid", ACTIVATION_MUL_SIGMOID, 0},
};

}  // namespace

Activation::Activation(const Attributes& attributes) {
  const std::string name = attributes.string("activation");
  const std::vector<float> given = attributes.reals("activation_parameters");
  for (const Known& known : KNOWN) {
    if (name != known.name) continue;
    if (given.size() != known.parameters)
      fail(Fault::argument, "activation '", name, "' has ", given.size(), " activation_parameters, needs ", known.parameters);
    kind = known.kind;
    std::copy(given.begin(), given.end(), parameters);
    // "HardSwish is MulHardSigmoid with 1/6 and 1/2"
    if (name == "HardSwish") parameters[0] = 1.0f / 6.0f, parameters[1] = 0.5f;
    return;
  }
  std::string legal;
  for (const Known& known : KNOWN) legal += *known.name ? std::string(known.name) + ", " : "";
  fail(Fault::argument, "activation '", name, "' is unknown, legal are ", legal, "or nothing");
}

Finish Activation::finish() const {
  Finish finish = UNFINISHED;
  if (kind == ACTIVATION_RELU) finish.low = 0.0f;
  if (kind == ACTIVATION_CLIP) finish.low = parameters[0], finish.high = parameters[1];
  return finish;
}

}  // namespace onnx_compress
