// Convolution without im2col, for groups of few outputs (depthwise above all): each lane is a small correlation of planes.
#pragma once

#include "geometry.h"

namespace onnx_compress {

// How the padded input planes of one group of one image are laid out: split into phases by stride. Phase (z, y, x) holds the padded
// positions whose coordinates are z, y, x modulo the strides, so that a tap reads one phase at a constant offset, contiguously, for any
// stride and dilation. Where masks leave out the padding, phases are of the input as it is, and as large as the output.
class Phases {
 public:
  Phases(const Geometry& geometry, const Kernels& kernels);

  // Whether the input may stay where it is.
  bool in_place() const { return masked() && !halved_; }
  // Whether taps leave out what is padding by masks: planes then have none.
  bool masked() const { return !masks_.empty(); }
  int64_t floats() const { return channel_size_ * geometry_.group_channels() + kernels_.vector; }
  // The group's channels [channels, plane] into `planes`, whose padding, where they have any, is zero before the first.
  void fill(const float* x, float* planes) const;
  // What computes a plane of outputs from these steps of k; where from, with which weights and where to are left to say.
  Correlation correlation(int64_t first, int64_t last) const;
  const Geometry& geometry() const { return geometry_; }

 private:
  void lay_out_masked();
  void lay_out();
  // Where a tap's phase begins.
  int64_t source(int64_t channel, const Tap& tap) const;
  void add_row(int64_t z, int64_t y);
  std::vector<Patch> row_by_row() const;
  // The patches of a plane of these extents whose values are a box of it.
  std::vector<Patch> across_rows(const int64_t (&first)[3], const int64_t (&last)[3]) const;
  const Geometry& geometry_;
  const Kernels& kernels_;
  bool halved_;  // even and odd rows and columns are set apart, and planes have no padding
  int64_t extent_[3], phase_size_, channel_size_;
  std::vector<Span> rows_;               // of a plane, which `fill` copies
  std::vector<Patch> inputs_, outputs_;  // or spreads, where that is less
  std::vector<int64_t> offsets_;         // of each step of k
  std::vector<uint16_t> masks_;          // [k, patch of the outputs]
};

// Some lanes of a tile, which are outputs, and an image.
struct Lanes {
  const Tile& tile;
  int64_t image, first, last;
};

// Adds their products to y, [images, outputs, positions], and finishes the last.
void convolve_directly(const Phases& phases, const Lanes& lanes, const float* x, const Finish& finish, float* y);

}  // namespace onnx_compress
