#include "checks.h"
#include "weight_mask.h"

namespace vdk {
namespace {

template <class T>
using Kernel = void (*)(const WeightMaskArgs<T>&, const Parallel&);

// A candidate is dropped where its random word is below this.
uint64_t below_of(const Tensor& alpha) {
  const double share = *pointer<double>(prepared(alpha, ScalarType::Double)) * 0x1p32;
  return share >= 0x1p32 ? uint64_t(1) << 32 : share > 0 ? uint64_t(share) : 0;
}

template <class T>
WeightMaskArgs<T> args_of(const Tensor& w, double gamma, const Tensor& alpha, const Tensor& seed,
                          const std::string& granularity, const Tensor& threshold, const Tensor& from,
                          const Tensor& out) {
  return {pointer<T>(w),
          w.size(0),
          w.size(1),
          granularity_of(granularity),
          gamma,
          below_of(alpha),
          seed_of(seed),
          output<T>(threshold),
          pointer<T>(from),
          output<T>(out)};
}

std::tuple<Tensor, Tensor> weight_mask(const Tensor& given, const Tensor& gamma, const Tensor& alpha,
                                       const Tensor& seed, const std::string& granularity) {
  check_mask(given, gamma, alpha);
  const ScalarType type = compute_type(given);
  const Tensor w = prepared(given, type), out = empty_like(w, type);
  Tensor threshold = empty({w.size(0)}, type);
  if (w.numel() == 0) return {returned(out, given.scalar_type()), torch::stable::zero_(threshold)};
  const double share = *pointer<double>(prepared(gamma, ScalarType::Double));
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    VDK_SELECT_AS(Kernel<T>, weight_mask)
    (args_of<T>(w, share, alpha, seed, granularity, threshold, w, out), torch_parallel());
  });
  return {returned(out, given.scalar_type()), threshold};
}

Tensor weight_mask_grad(const Tensor& grad, const Tensor& given, const Tensor& threshold, const Tensor& alpha,
                        const Tensor& seed, const std::string& granularity) {
  check_mask_grad(grad, given, threshold);
  const ScalarType type = compute_type(given, grad);
  const Tensor w = prepared(given, type), from = prepared(grad, type), bound = prepared(threshold, type);
  const Tensor out = empty_like(w, type);
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    VDK_SELECT_AS(Kernel<T>, apply_mask)
    (args_of<T>(w, 0, alpha, seed, granularity, bound, from, out), torch_parallel());
  });
  return returned(out, grad.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("weight_mask", TORCH_BOX(&weight_mask));
  m.impl("weight_mask_grad", TORCH_BOX(&weight_mask_grad));
}

}  // namespace vdk
