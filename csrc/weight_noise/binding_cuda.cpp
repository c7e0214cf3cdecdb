#include "../cuda/binding.h"
#include "cuda.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Weights, or with `grad` the gradients of mu and its parameter. Tensors of one type are read as they lie; of
// two they are cast to the type computed in.
std::tuple<Tensor, Tensor> run(const Tensor& like, const OptionalTensor& mu, const OptionalTensor& grad,
                               const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                               const Tensor& seed) {
  STD_TORCH_CHECK(log_sigma2.has_value() != log_alpha.has_value(),
                  "weight_noise: give one of log_sigma2 and log_alpha");
  const Tensor& given = log_alpha ? *log_alpha : *log_sigma2;
  STD_TORCH_CHECK(like.dim() == 2 && given.dim() == 2, "weight_noise: mu and its parameter must be matrices");
  const int64_t rows = like.size(0), cols = like.size(1), log_rows = given.size(0), log_cols = given.size(1);
  STD_TORCH_CHECK((log_rows == 1 || log_rows == rows) && (log_cols == 1 || log_cols == cols),
                  "weight_noise: the noise's parameter must be [1 or O, 1 or I]");
  const bool own = log_rows == rows && log_cols == cols;
  STD_TORCH_CHECK(own || log_alpha, "weight_noise: log_sigma2 must be of mu's shape");
  const bool alike =
      given.scalar_type() == like.scalar_type() && (!mu || !grad || mu->scalar_type() == grad->scalar_type());
  const ScalarType type = alike ? like.scalar_type() : compute_type(like, mu, given);
  const Gpu gpu(like);
  const OptionalTensor m = prepared(mu, type), g = prepared(grad, type);
  const Tensor log = prepared(given, type);
  const bool out_wanted = !grad || log_alpha;
  const Tensor out = out_wanted ? gpu.empty({rows, cols}, type) : gpu.empty({0}, type);
  const ScalarType computed = compute_type(log);
  const Tensor dlog = grad ? gpu.empty({log_rows, log_cols}, own ? type : computed) : gpu.empty({0}, type);
  const Tensor workspace =
      gpu.empty({grad ? cuda::weight_noise_workspace(rows, cols, log_rows, log_cols) : 0}, computed);
  if (grad && rows * cols == 0) {
    torch::stable::zero_(const_cast<Tensor&>(dlog));
    return {out, dlog};
  }
  with_elements(type, [&](auto zero) {
    using E = decltype(zero);
    using C = ComputeOf<E>;
    cuda::weight_noise(
        cuda::WeightNoiseArgs<E>{pointer<E>(m), pointer<E>(log), pointer<E>(g), output<E>(out), rows, cols,
                                 log_rows, log_cols, log_alpha.has_value(), seed_on_gpu(seed),
                                 grad && own ? output<E>(dlog) : nullptr,
                                 grad && !own ? output<C>(dlog) : nullptr, output<C>(workspace)},
        gpu.stream());
  });
  return {out, dlog};
}

Tensor weight_noise(const Tensor& mu, const OptionalTensor& log_sigma2, const OptionalTensor& log_alpha,
                    const Tensor& seed) {
  return returned(std::get<0>(run(mu, mu, std::nullopt, log_sigma2, log_alpha, seed)), mu.scalar_type());
}

std::tuple<Tensor, Tensor> weight_noise_grad(const Tensor& grad, const OptionalTensor& mu,
                                             const OptionalTensor& log_sigma2,
                                             const OptionalTensor& log_alpha, const Tensor& seed) {
  STD_TORCH_CHECK(mu.has_value() || !log_alpha.has_value(), "weight_noise_grad: log_alpha needs mu");
  const auto [dmu, dlog] = run(grad, log_alpha ? mu : std::nullopt, grad, log_sigma2, log_alpha, seed);
  const Tensor& given = log_alpha ? *log_alpha : *log_sigma2;
  return {returned(dmu, (log_alpha ? *mu : grad).scalar_type()), returned(dlog, given.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("weight_noise", TORCH_BOX(&weight_noise));
  m.impl("weight_noise_grad", TORCH_BOX(&weight_noise_grad));
}

}  // namespace vdk
