// CompressedGemm: act(alpha * A' * view' + beta * C + residual) (FORMAT.md, section 8).
#include <algorithm>

#include "activation.h"
#include "linear.h"

namespace onnx_compress {
namespace {

// C, broadcast to [M, rows].
struct Addend {
  Floats values;
  int64_t row_stride, lane_stride;
};

std::optional<Addend> read_addend(const Run& run, int64_t m, int64_t rows) {
  const auto tensor = run.input(2);
  if (!tensor) return {};
  const Shape& shape = tensor->shape;
  const int64_t wide = shape.empty() ? 1 : shape.back(), tall = shape.size() < 2 ? 1 : shape[shape.size() - 2];
  if (shape.size() > 2 || (wide != 1 && wide != rows) || (tall != 1 && tall != m))
    fail(Fault::argument, "C has shape ", text_of(shape), ", which does not broadcast to ", text_of({m, rows}));
  return Addend{Floats(*tensor), tall == 1 ? 0 : wide, wide == 1 ? 0 : 1};
}

class Gemm : public WeightOperator {
 public:
  Gemm(const Attributes& attributes, const Options& options)
      : WeightOperator(attributes, 1, static_cast<int>(attributes.integer("to", 0)), options),
        activation_(attributes),
        transposed_(attributes.integer("transA", 0) != 0),
        alpha_(attributes.real("alpha", 1.0f)),
        beta_(attributes.real("beta", 1.0f)) {
    keep_constant(attributes);
  }

  void compute(const Run& run) const override {
    const auto held = weight(run);
    const Member& member = held->member();
    const Tensor a = run.input(0).value();
    if (a.shape.size() != 2 || a.shape[transposed_ ? 0 : 1] != member.k)
      fail(Fault::argument, "A has shape ", text_of(a.shape), ", it needs two axes, ", member.k, " long the ",
           transposed_ ? "first" : "last");
    const int64_t m = a.shape[transposed_ ? 1 : 0], rows = member.rows;
    const Floats activations(a);
    const auto addend = read_addend(run, m, rows);
    const auto residual = optional_floats(run, 3, "residual", {m, rows});
    Output y(run, {m, rows}, a.type);
    const LinearStrides strides = transposed_ ? LinearStrides{1, m} : LinearStrides{member.k, 1};
    const std::vector<LinearJob> jobs = {{0, activations.data(), y.data(), m}};
    multiply_weight(run, *held, jobs, strides, [&](const LinearJob& job, int64_t first, int64_t last, int64_t lane, int64_t end) {
      const Sums sums = {job.y + first * rows + lane, last - first, end - lane, rows};
      Ending ending = activation_.ending();
      const bool plain = addend && beta_ == 1.0f && addend->lane_stride && !addend->row_stride;  // C is a bias
      if (plain) ending.biases = addend->values.data() + lane;
      for (int64_t row = first; row < last; ++row) {
        float* to = job.y + row * rows;
        for (int64_t n = lane; n < end && alpha_ != 1.0f; ++n) to[n] *= alpha_;
        for (int64_t n = lane; n < end && addend && !plain; ++n)
          to[n] += beta_ * addend->values.data()[row * addend->row_stride + n * addend->lane_stride];
      }
      if (residual) ending.residual = residual->data() + first * rows + lane;
      if (!ending.nothing()) held->kernels().end_rows(&sums, &ending);
    });
    y.finish();
  }

 protected:
  void validate(const Weight& weight) const override {
    if (weight.member().batch != 1)
      fail(Fault::argument, "a weight in ", weight.member().batch, " batches is not one that Gemm multiplies with");
  }

 private:
  Activation activation_;
  bool transposed_;
  float alpha_, beta_;
};

}  // namespace

std::unique_ptr<Operator> make_gemm(const Attributes& attributes, const Options& options) {
  return std::make_unique<Gemm>(attributes, options);
}

}  // namespace onnx_compress
