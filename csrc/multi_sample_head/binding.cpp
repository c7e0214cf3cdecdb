#include "../common/binding.h"
#include "multi_sample_head.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class T>
using Kernel = void (*)(const HeadArgs<T>&, const Parallel&);

struct Results {
  Tensor losses, dh, dweight, dbias;
};

// What the sum of the losses is divided by for their mean; refuses targets out of range.
template <class T>
double norm_of(const HeadArgs<T>& a) {
  double norm = 0;
  for (int64_t b = 0; b < a.rows; ++b) {
    const int64_t y = a.target[b];
    if (y == a.ignore_index) continue;
    STD_TORCH_CHECK(y >= 0 && y < a.classes, "multi_sample_head: target ", y, " is out of bounds for ",
                    a.classes, " classes");
    norm += a.class_weight ? double(a.class_weight[y]) : 1.0;
  }
  return norm;
}

struct Options {
  int64_t samples;
  double p;
  bool mean;
  int64_t ignore_index;
  double smoothing;
  bool needs_h, needs_weight;
};

void zero(const Tensor& t) { torch::stable::zero_(const_cast<Tensor&>(t)); }

// `grad`: of each row's loss, for the gradients of reduction "none"; the loss is then not looked at.
Results run(const OptionalTensor& grad, const Tensor& h, const Tensor& weight, const OptionalTensor& bias,
            const Tensor& target, const OptionalTensor& class_weight, const Tensor& seed, const Options& o,
            Tensor* loss) {
  const ScalarType type = compute_type(h, weight);
  const Tensor x = prepared(h, type), w = prepared(weight, type), y = torch::stable::contiguous(target);
  const OptionalTensor b = prepared(bias, type), c = prepared(class_weight, type), g = prepared(grad, type);
  const int64_t rows = x.size(0), features = x.size(1), classes = w.size(0);
  const Results r{empty({rows}, type), o.needs_h ? empty_like(x, type) : empty({0}, type),
                  o.needs_weight ? empty_like(w, type) : empty({0}, type),
                  empty({o.needs_weight && b ? classes : 0}, type)};
  with_compute_type(type, [&](auto none) {
    using T = decltype(none);
    HeadArgs<T> args{pointer<T>(x),
                     pointer<T>(w),
                     pointer<T>(b),
                     pointer<int64_t>(y),
                     pointer<T>(c),
                     rows,
                     features,
                     classes,
                     seed_of(seed),
                     o.samples,
                     o.p,
                     o.ignore_index,
                     o.smoothing,
                     pointer<T>(g),
                     0,
                     output<T>(r.losses),
                     o.needs_h ? output<T>(r.dh) : nullptr,
                     o.needs_weight ? output<T>(r.dweight) : nullptr,
                     o.needs_weight && b ? output<T>(r.dbias) : nullptr};
    const double counted = norm_of(args), norm = o.mean ? counted : 1;
    args.scale = 1 / (norm * double(o.samples));
    if (rows == 0 || features == 0 || classes == 0) {
      STD_TORCH_CHECK(rows == 0 || classes > 0, "multi_sample_head: there are no classes");
      STD_TORCH_CHECK(rows == 0, "multi_sample_head: there are no features");
      for (const Tensor* t : {&r.losses, &r.dh, &r.dweight, &r.dbias}) zero(*t);
    } else {
      VDK_SELECT_AS(Kernel<T>, multi_sample_head)(args, torch_parallel());
    }
    if (!loss) return;
    double sum = 0;
    for (int64_t i = 0; i < rows; ++i) sum += double(args.losses[i]);
    *loss = scalar<T>(sum / norm, type);
  });
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
  Tensor loss = empty({0}, ScalarType::Float);
  const Results r = run(std::nullopt, h, weight, bias, target, class_weight, seed, o, none ? nullptr : &loss);
  return {none ? r.losses : loss, r.dh, r.dweight, r.dbias};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& h, const Tensor& weight,
                                            const OptionalTensor& bias, const Tensor& target,
                                            const OptionalTensor& class_weight, const Tensor& seed,
                                            int64_t samples, double p, int64_t ignore_index, double smoothing,
                                            bool needs_h, bool needs_weight) {
  const Options o{samples, p, false, ignore_index, smoothing, needs_h, needs_weight};
  const Results r = run(grad, h, weight, bias, target, class_weight, seed, o, nullptr);
  return {r.dh, r.dweight, r.dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("multi_sample_head", TORCH_BOX(&forward));
  m.impl("multi_sample_head_backward", TORCH_BOX(&backward));
}

}  // namespace vdk
