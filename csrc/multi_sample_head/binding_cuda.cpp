#include "../linear_lrt/binding_cuda.h"
#include "cuda.h"

namespace vdk {
namespace {

using cuda::MultiSampleHead;

struct Options {
  int64_t samples;
  double p;
  bool mean;
  int64_t ignore_index;
  double smoothing;
  bool needs_h, needs_weight;
};
struct Results {
  Tensor loss, dh, dweight, dbias;
};

// `grad`: of each row's loss, for the gradients of reduction "none"; losses are then not wanted. `each`: the
// loss of every row, else one for all.
Results run(const OptionalTensor& grad, const Tensor& h, const Tensor& weight, const OptionalTensor& bias,
            const Tensor& target, const OptionalTensor& class_weight, const Tensor& seed, const Options& o,
            bool each) {
  STD_TORCH_CHECK(!is_double(h) && !is_double(weight), "multi_sample_head: no CUDA kernel for float64");
  require_on_gpu("multi_sample_head", weight, bias, target, class_weight, grad);
  const Gpu gpu(h);
  const ScalarType type = product_type(h, weight, gpu), result = ScalarType::Float;
  const Tensor x = prepared(h, type), w = prepared(weight, type), y = torch::stable::contiguous(target);
  const OptionalTensor b = prepared(bias, result), c = prepared(class_weight, result),
                       g = prepared(grad, result);
  const int64_t rows = x.size(0), features = x.size(1), classes = w.size(0);
  STD_TORCH_CHECK(o.samples > 0, "multi_sample_head: there are no samples");
  STD_TORCH_CHECK(rows == 0 || classes > 0, "multi_sample_head: there are no classes");
  STD_TORCH_CHECK(rows == 0 || features > 0, "multi_sample_head: there are no features");
  const Results r{
      gpu.empty(each || grad ? std::vector<int64_t>{grad ? 0 : rows} : std::vector<int64_t>{}, result),
      o.needs_h ? gpu.empty_like(x, result) : gpu.empty({0}, result),
      o.needs_weight ? gpu.empty_like(w, result) : gpu.empty({0}, result),
      gpu.empty({o.needs_weight && b ? classes : 0}, result)};
  const MultiSampleHead args{rows,
                             features,
                             classes,
                             o.samples,
                             number_of(type),
                             precision_on(gpu),
                             x.const_data_ptr(),
                             w.const_data_ptr(),
                             pointer<float>(b),
                             pointer<int64_t>(y),
                             pointer<float>(c),
                             seed_on_gpu(seed),
                             o.p,
                             o.ignore_index,
                             float(o.smoothing),
                             o.mean,
                             pointer<float>(g),
                             each || grad ? nullptr : output<float>(r.loss),
                             each && !grad ? output<float>(r.loss) : nullptr,
                             o.needs_h ? output<float>(r.dh) : nullptr,
                             o.needs_weight ? output<float>(r.dweight) : nullptr,
                             o.needs_weight && b ? output<float>(r.dbias) : nullptr};
  const int processors = gpu.multiprocessors();
  const Tensor workspace = gpu.workspace(multi_sample_head_workspace(args, processors));
  multi_sample_head(args, gpu.capability(), processors, workspace.mutable_data_ptr(), gpu.stream());
  return r;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& h, const Tensor& weight,
                                                   const OptionalTensor& bias, const Tensor& target,
                                                   const OptionalTensor& class_weight, const Tensor& seed,
                                                   int64_t samples, double p, const std::string& reduction,
                                                   int64_t ignore_index, double smoothing, bool needs_h,
                                                   bool needs_weight) {
  const bool none = reduction == "none";
  const Options o{
      samples, p, reduction == "mean", ignore_index, smoothing, needs_h && !none, needs_weight && !none};
  const Results r = run(std::nullopt, h, weight, bias, target, class_weight, seed, o, none);
  return {r.loss, r.dh, r.dweight, r.dbias};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& h, const Tensor& weight,
                                            const OptionalTensor& bias, const Tensor& target,
                                            const OptionalTensor& class_weight, const Tensor& seed,
                                            int64_t samples, double p, int64_t ignore_index, double smoothing,
                                            bool needs_h, bool needs_weight) {
  const Options o{samples, p, false, ignore_index, smoothing, needs_h, needs_weight};
  const Results r = run(grad, h, weight, bias, target, class_weight, seed, o, false);
  return {r.dh, r.dweight, r.dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("multi_sample_head", TORCH_BOX(&forward));
  m.impl("multi_sample_head_backward", TORCH_BOX(&backward));
}

}  // namespace vdk
