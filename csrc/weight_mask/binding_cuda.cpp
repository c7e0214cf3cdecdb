#include "../cuda/binding.h"
#include "checks.h"
#include "cuda.h"

namespace vdk {
namespace {

constexpr ScalarType kDouble = ScalarType::Double;

std::tuple<Tensor, Tensor> weight_mask(const Tensor& given, const Tensor& gamma, const Tensor& alpha,
                                       const Tensor& seed, const std::string& granularity) {
  check_mask(given, gamma, alpha);
  require_on_gpu("weight_mask", given, gamma, alpha);
  const Gpu gpu(given);
  const ScalarType type = given.scalar_type();
  const Granularity by = granularity_of(granularity);
  const Tensor w = prepared(given, type), share = prepared(gamma, kDouble), odds = prepared(alpha, kDouble);
  const int64_t rows = w.size(0), cols = w.size(1);
  const Tensor out = gpu.empty({rows, cols}, type);
  Tensor threshold = gpu.empty({rows}, compute_type(w));
  if (rows * cols == 0) return {out, torch::stable::zero_(threshold)};
  with_elements(type, [&](auto zero) {
    using E = decltype(zero);
    const Tensor workspace =
        gpu.workspace(size_t(cuda::weight_mask_workspace(rows, cols, by, int64_t(sizeof(E)))));
    cuda::weight_mask(
        cuda::WeightMaskArgs<E>{pointer<E>(w), rows, cols, by, pointer<double>(share), pointer<double>(odds),
                                seed_on_gpu(seed), output<ComputeOf<E>>(threshold), pointer<E>(w),
                                output<E>(out), output<void>(workspace)},
        gpu.stream());
  });
  return {out, threshold};
}

// Tensors of one type are read as they lie; of two they are cast to the type computed in.
Tensor weight_mask_grad(const Tensor& grad, const Tensor& given, const Tensor& threshold, const Tensor& alpha,
                        const Tensor& seed, const std::string& granularity) {
  check_mask_grad(grad, given, threshold);
  require_on_gpu("weight_mask_grad", grad, given, threshold, alpha);
  const Gpu gpu(given);
  const ScalarType computed = compute_type(given, grad);
  const ScalarType type = grad.scalar_type() == given.scalar_type() ? given.scalar_type() : computed;
  const Tensor w = prepared(given, type), from = prepared(grad, type), bound = prepared(threshold, computed);
  const Tensor odds = prepared(alpha, kDouble), out = gpu.empty_like(w, type);
  const Tensor workspace = gpu.workspace(size_t(cuda::kMaskGradWorkspace));
  with_elements(type, [&](auto zero) {
    using E = decltype(zero);
    cuda::weight_mask(
        cuda::WeightMaskArgs<E>{pointer<E>(w), w.size(0), w.size(1), granularity_of(granularity), nullptr,
                                pointer<double>(odds), seed_on_gpu(seed),
                                const_cast<ComputeOf<E>*>(pointer<ComputeOf<E>>(bound)), pointer<E>(from),
                                output<E>(out), output<void>(workspace)},
        gpu.stream());
  });
  return returned(out, grad.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("weight_mask", TORCH_BOX(&weight_mask));
  m.impl("weight_mask_grad", TORCH_BOX(&weight_mask_grad));
}

}  // namespace vdk
