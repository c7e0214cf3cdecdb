#include "../common/binding.h"
#include "binary_weight.h"

namespace vdk {
namespace {

template <class T>
using Kernel = void (*)(const BinaryWeightArgs<T>&, const Parallel&);

void run(const Tensor& w, const std::optional<Tensor>& grad, bool corrected, const Tensor& out,
         const Tensor& alpha, ScalarType type) {
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    const BinaryWeightArgs<T> args{pointer<T>(w), pointer<T>(grad), w.size(0),       w.size(1),
                                   corrected,     output<T>(out),   output<T>(alpha)};
    VDK_SELECT_AS(Kernel<T>, binary_weight)(args, torch_parallel());
  });
}

std::tuple<Tensor, Tensor> binary_weight(const Tensor& given) {
  STD_TORCH_CHECK(given.dim() == 2, "binary_weight: w must be [O, n]");
  const ScalarType type = compute_type(given), own = given.scalar_type();
  const Tensor w = prepared(given, type), out = empty_like(w, type);
  Tensor alpha = empty({w.size(0)}, type);
  if (w.numel() == 0)
    torch::stable::zero_(alpha);
  else
    run(w, std::nullopt, false, out, alpha, type);
  return {returned(out, own), returned(alpha, own)};
}

Tensor binary_weight_backward(const Tensor& grad, const Tensor& given, const std::string& gradient) {
  STD_TORCH_CHECK(given.dim() == 2 && grad.numel() == given.numel(),
                  "binary_weight: grad and w must be [O, n]");
  const bool corrected = gradient == "corrected";
  STD_TORCH_CHECK(corrected || gradient == "original", "binary_weight: unknown gradient ", gradient);
  const ScalarType type = compute_type(given, grad);
  const Tensor w = prepared(given, type), out = empty_like(w, type), none = empty({0}, type);
  if (w.numel()) run(w, prepared(grad, type), corrected, out, none, type);
  return returned(out, given.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("binary_weight", TORCH_BOX(&binary_weight));
  m.impl("binary_weight_backward", TORCH_BOX(&binary_weight_backward));
}

}  // namespace vdk
