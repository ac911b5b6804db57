#include "conv_plan.h"

#include <algorithm>

namespace onnx_compress {

PaddedInput::PaddedInput(const Geometry& g, bool neighbours)
    : geometry_(g), phases_(neighbours ? g.stride[2] : 1), step_(neighbours ? 1 : g.stride[2]) {
  extent_ = phases_ == 1 ? g.in[2] + g.before[2] + g.after[2] : g.out[2] + (g.kernel[2] - 1) * g.dilation[2] / phases_;
  row_ = phases_ * extent_;
  plane_ = row_ * (g.in[1] + g.before[1] + g.after[1]);
  volume_ = plane_ * (g.in[0] + g.before[0] + g.after[0]);
  same_ = phases_ == 1 && volume_ == g.plane();
  for (int64_t channel = 0; channel < g.group_channels(); ++channel)
    for (int64_t i = 0; i < g.taps(); ++i) {
      const Tap tap(g, i);
      const int64_t column = tap.at[2] * g.dilation[2];
      taps_.push_back(channel * volume_ + tap.at[0] * g.dilation[0] * plane_ + tap.at[1] * g.dilation[1] * row_ +
                      column % phases_ * extent_ + column / phases_);
    }
  for (int64_t z = 0; z < g.in[0]; ++z)
    for (int64_t y = 0; y < g.in[1]; ++y) add_row(z, y);
}

// A row of the input, of which each phase takes its share: its i-th value is padded column i * phases + phase.
void PaddedInput::add_row(int64_t z, int64_t y) {
  const Geometry& g = geometry_;
  for (int64_t phase = 0; phase < phases_; ++phase) {
    const int64_t shift = phase - g.before[2], first = shift >= 0 ? 0 : (-shift + phases_ - 1) / phases_;
    const int64_t last = std::min(extent_, (g.in[2] - shift + phases_ - 1) / phases_);
    const int64_t to = (z + g.before[0]) * plane_ + (y + g.before[1]) * row_ + phase * extent_ + first;
    if (first < last) spans_.push_back({(z * g.in[1] + y) * g.in[2] + first * phases_ + shift, to, last - first});
  }
}

void PaddedInput::fill(const Kernels& kernels, const float* channel, float* to) const {
  std::fill(to, to + volume_, 0.0f);
  kernels.copy_spans(channel, spans_.data(), static_cast<int64_t>(spans_.size()), phases_, to);
}

int64_t PaddedInput::start(int64_t position) const {
  const Geometry& g = geometry_;
  const int64_t x = position % g.out[2], y = position / g.out[2] % g.out[1], z = position / g.out[2] / g.out[1];
  return z * g.stride[0] * plane_ + y * g.stride[1] * row_ + x * step_;
}

void PaddedInput::rows(const float* from, int64_t first, int64_t many, const float** x) const {
  const int64_t width = geometry_.out[2];
  for (int64_t i = 0; i < many;) {
    const float* at = from + start(first + i);
    const int64_t end = std::min(many, i + width - (first + i) % width);
    for (; i < end; ++i, at += step_) x[i] = at;
  }
}

namespace {

// Groups of fewer outputs than this go the direct way: a panel would be mostly other groups' lanes.
constexpr int64_t DIRECT_BELOW = 16;

// Where outputs are in vectors, their weights stay in the first-level cache, but sums have to be turned around: not worth it for so few
// outputs, nor for sums of so few products, nor where all positions of a large plane are neighbours.
constexpr int64_t FEW_OUTPUTS = 24, FEW_PRODUCTS = 144, FEW_CHANNELS = 96, LARGE_PLANE = 1024;

// How many positions follow each other as neighbours that fill seven of eight lanes at least: all, those of a row, or 0 where outputs are
// to be in vectors.
int64_t line_of(const Geometry& g, int64_t vector) {
  const auto fills = [&](int64_t count) { return 7 * ((count + vector - 1) / vector * vector) <= 8 * count; };
  const bool few = g.group_outputs() <= FEW_OUTPUTS;
  if (g.taps() == 1 && g.positions() == g.plane() && g.padding() == 0)
    return (few || g.group_channels() < FEW_CHANNELS || g.positions() > LARGE_PLANE) && fills(g.positions()) ? g.positions() : 0;
  return (few || g.group_channels() * g.taps() <= FEW_PRODUCTS) && fills(g.out[2]) ? g.out[2] : 0;
}

}  // namespace

ConvPlan::ConvPlan(const ConvAttributes& attributes, const Shape& shape, const Weight& weight)
    : x(shape), geometry(attributes, shape, weight.member()), bias{geometry.outputs}, y(geometry.shape()) {
  if (geometry.group > 1 && (weight.member().batch == 1 || geometry.group_outputs() < DIRECT_BELOW)) {
    phases.emplace(geometry, weight.kernels());
  } else {
    line = line_of(geometry, weight.kernels().vector);
    padded.emplace(geometry, line > 0);
  }
}

}  // namespace onnx_compress
