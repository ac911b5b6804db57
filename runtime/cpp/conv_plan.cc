#include "conv_plan.h"

#include <algorithm>

namespace onnx_compress {

PaddedInput::PaddedInput(const Geometry& g)
    : geometry_(g),
      row_(g.in[2] + g.before[2] + g.after[2]),
      plane_(row_ * (g.in[1] + g.before[1] + g.after[1])),
      volume_(plane_ * (g.in[0] + g.before[0] + g.after[0])) {
  for (int64_t channel = 0; channel < g.group_channels(); ++channel)
    for (int64_t z = 0; z < g.kernel[0]; ++z)
      for (int64_t y = 0; y < g.kernel[1]; ++y)
        for (int64_t x = 0; x < g.kernel[2]; ++x)
          taps_.push_back(channel * volume_ + z * g.dilation[0] * plane_ + y * g.dilation[1] * row_ + x * g.dilation[2]);
}

void PaddedInput::fill(const float* channel, float* to) const {
  const Geometry& g = geometry_;
  std::fill(to, to + volume_, 0.0f);
  for (int64_t z = 0; z < g.in[0]; ++z)
    for (int64_t y = 0; y < g.in[1]; ++y)
      std::copy_n(channel + (z * g.in[1] + y) * g.in[2], g.in[2], to + (z + g.before[0]) * plane_ + (y + g.before[1]) * row_ + g.before[2]);
}

void PaddedInput::rows(const float* from, int64_t first, int64_t many, const float** x) const {
  const Geometry& g = geometry_;
  int64_t at = first % g.out[2], y = first / g.out[2] % g.out[1], z = first / g.out[2] / g.out[1];
  for (int64_t i = 0; i < many; ++i) {
    x[i] = from + z * g.stride[0] * plane_ + y * g.stride[1] * row_ + at * g.stride[2];
    if (++at < g.out[2]) continue;
    at = 0;
    if (++y == g.out[1]) y = 0, ++z;
  }
}

namespace {

// Groups of fewer outputs than this go the direct way: a panel would be mostly other groups' lanes.
constexpr int64_t DIRECT_BELOW = 16;

// Planes of so many positions, and sums of so many products, are worth turning their sums around: rows of outputs are then multiplied,
// whose weights stay in the first-level cache.
constexpr int64_t TURNED_POSITIONS = 1024, TURNED_PRODUCTS = 96;

// Whether outputs are products of the positions where they are, and these fill seven of eight lanes at least.
bool is_pointwise(const Geometry& g, int64_t vector) {
  const int64_t lanes = (g.positions() + vector - 1) / vector * vector;
  const bool turned = g.positions() <= TURNED_POSITIONS && g.group_channels() >= TURNED_PRODUCTS;
  return g.taps() == 1 && g.positions() == g.plane() && g.padding() == 0 && 7 * lanes <= 8 * g.positions() && !turned;
}

}  // namespace

ConvPlan::ConvPlan(const ConvAttributes& attributes, const Shape& shape, const Weight& weight)
    : x(shape), geometry(attributes, shape, weight.member()), bias{geometry.outputs}, y(geometry.shape()) {
  const bool direct = geometry.group > 1 && (weight.member().batch == 1 || geometry.group_outputs() < DIRECT_BELOW);
  if (direct) {
    phases.emplace(geometry, weight.kernels());
  } else if (!(pointwise = is_pointwise(geometry, weight.kernels().vector))) {
    padded.emplace(geometry);
  }
}

}  // namespace onnx_compress
