// The product that CompressedMatMul and CompressedGemm share.
#pragma once

#include <functional>

#include "operator.h"

namespace onnx_compress {

// One matrix that a batch of the weight is multiplied with: y[m, rows] = sum over k of x[m, k] * view[batch, rows, k].
struct LinearJob {
  int64_t batch;
  const float* x;
  float* y;
  int64_t m;
};

struct LinearStrides {
  int64_t row, step;  // of m and k in x
};

// `tail(job, first row of m, last row of m, first lane, last lane)` finishes a block of y when its sums are complete.
using Tail = std::function<void(const LinearJob&, int64_t, int64_t, int64_t, int64_t)>;

void multiply_weight(const Run& run, const Weight& weight, const std::vector<LinearJob>& jobs, LinearStrides strides, const Tail& tail);

}  // namespace onnx_compress
