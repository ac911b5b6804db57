// CompressedMatMul: Y[..., n] = act(sum over k of X[..., k] * view[b, n, k] + bias[n] + residual) (FORMAT.md, section 8).
#include <algorithm>

#include "activation.h"
#include "linear.h"

namespace onnx_compress {
namespace {

// Batch axes of X, of the weight and of Y, broadcast as in MatMul.
struct Broadcast {
  Shape x, weight, y;

  // Flat indices into the batches of X and of the weight, of the batch `flat` of Y.
  std::pair<int64_t, int64_t> source(int64_t flat) const {
    int64_t from_x = 0, from_weight = 0, x_stride = 1, weight_stride = 1;
    for (size_t i = y.size(); i-- > 0; flat /= y[i]) {
      const int64_t index = flat % y[i];
      from_x += (x[i] == 1 ? 0 : index) * x_stride, x_stride *= x[i];
      from_weight += (weight[i] == 1 ? 0 : index) * weight_stride, weight_stride *= weight[i];
    }
    return {from_x, from_weight};
  }
};

Broadcast broadcast(Shape x, Shape weight) {
  const size_t rank = std::max(x.size(), weight.size());
  x.insert(x.begin(), rank - x.size(), 1);
  weight.insert(weight.begin(), rank - weight.size(), 1);
  Broadcast out{x, weight, {}};
  for (size_t i = 0; i < rank; ++i) {
    if (x[i] != weight[i] && x[i] != 1 && weight[i] != 1)
      fail(Fault::argument, "batch axes ", text_of(x), " of X and ", text_of(weight), " of the weight do not broadcast");
    out.y.push_back(x[i] == 1 ? weight[i] : x[i]);
  }
  return out;
}

class MatMul : public WeightOperator {
 public:
  MatMul(const Attributes& attributes, const Options& options)
      : WeightOperator(attributes, 1, static_cast<int>(attributes.integer("to", 0)), options),
        activation_(attributes),
        bias_(attributes, 2, "bias") {
    keep_constant(attributes);
  }

  void compute(const Run& run) const override {
    const auto held = weight(run);
    const Member& member = held->member();
    const Tensor x = run.input(0).value();
    if (x.shape.empty() || x.shape.back() != member.k)
      fail(Fault::argument, "X has shape ", text_of(x.shape), ", its last axis must be ", member.k);
    const bool vector = x.shape.size() == 1;
    const int64_t m = vector ? 1 : x.shape[x.shape.size() - 2];
    const Broadcast axes = broadcast(vector ? Shape{} : Shape(x.shape.begin(), x.shape.end() - 2), batch_axes(member));
    Shape shape = axes.y;
    if (!vector) shape.push_back(m);
    shape.push_back(member.rows);

    const Floats activations(x);
    const auto bias = bias_.of(run, {member.rows});
    const auto residual = optional_floats(run, 3, "residual", shape);
    Output y(run, shape, x.type);
    const auto jobs = jobs_of(axes, activations.data(), y.data(), m, member);
    multiply_weight(run, *held, jobs, {member.k, 1}, [&](const LinearJob& job, int64_t first, int64_t last, int64_t lane, int64_t end) {
      Ending ending = activation_.ending();
      if (bias) ending.biases = bias->data() + lane;
      const Sums sums = {job.y + first * member.rows + lane, last - first, end - lane, member.rows};
      if (residual) ending.residual = residual->data() + (sums.values - y.data());
      if (!ending.nothing()) held->kernels().end_rows(&sums, &ending);
    });
    y.finish();
  }

 protected:
  void validate(const Weight& weight) const override {
    const Member& member = weight.member();
    if (count_of(batch_axes(member)) != member.batch)
      fail(Fault::argument, "a weight of dims ", text_of(member.dims), " seen in ", member.batch,
           " batches is not one that MatMul multiplies with");
  }

 private:
  static Shape batch_axes(const Member& member) {
    return member.dims.size() < 2 ? Shape{} : Shape(member.dims.begin(), member.dims.end() - 2);
  }

  // One job a batch of Y; with a single batch of the weight, all of X is one matrix.
  static std::vector<LinearJob> jobs_of(const Broadcast& axes, const float* x, float* y, int64_t m, const Member& member) {
    if (member.batch == 1) return {{0, x, y, count_of(axes.y) * m}};
    std::vector<LinearJob> jobs;
    for (int64_t batch = 0; batch < count_of(axes.y); ++batch) {
      const auto [from_x, from_weight] = axes.source(batch);
      jobs.push_back({from_weight, x + from_x * m * member.k, y + batch * m * member.rows, m});
    }
    return jobs;
  }

  Activation activation_;
  OptionalFloats bias_;
};

}  // namespace

std::unique_ptr<Operator> make_matmul(const Attributes& attributes, const Options& options) {
  return std::make_unique<MatMul>(attributes, options);
}

}  // namespace onnx_compress
