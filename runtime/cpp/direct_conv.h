// Convolution without im2col, for groups of few outputs (depthwise above all): each lane is a small correlation of planes.
#pragma once

#include "geometry.h"

namespace onnx_compress {

// The padded input planes of one group of one image, split into phases by stride: phase (z, y, x) holds the padded positions whose
// coordinates are z, y, x modulo the strides. A tap then reads one phase at a constant offset, contiguously, for any stride and dilation.
class Phases {
 public:
  explicit Phases(const Geometry& geometry);
  void fill(const float* x);  // the group's channels, [channels, plane]
  const float* source(int64_t channel, const Tap& tap) const;
  // The outputs of a plane, a vector at a time.
  std::vector<Span> spans() const;

 private:
  void fill_row(const float* x, int64_t channel, int64_t z, int64_t y);
  const Geometry& geometry_;
  int64_t extent_[3], phase_size_, channel_size_;
  std::vector<float> planes_;
};

// Adds the products of a tile to y, [images, outputs, positions], and the bias (a value an output, or null) to its first. `lane`s of the
// tile are outputs.
void convolve_directly(const Geometry& geometry, const Tile& tile, const float* x, const float* bias, float* y);

}  // namespace onnx_compress
