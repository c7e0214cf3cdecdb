#include "../common/binding.h"
#include "sign_mlp.h"

namespace vdk {
namespace {

using Losses = void (*)(const SignMlpArgs&, const Parallel&);
using Moments = void (*)(const NoiseMomentsArgs&, const Parallel&);

Tensor sign_mlp_losses(const Tensor& x, const Tensor& y, const Tensor& mu, const Tensor& sigma,
                       const Tensor& seeds, int64_t depth, bool antithetic) {
  constexpr ScalarType kFloat = ScalarType::Float;
  STD_TORCH_CHECK(x.dim() == 2 && x.scalar_type() == kFloat && mu.scalar_type() == kFloat,
                  "sign_mlp: x must be float32 [B, n], mu float32");
  const Tensor inputs = prepared(x, kFloat), target = prepared(y, kFloat);
  const Tensor means = prepared(mu, kFloat), spread = prepared(sigma, kFloat),
               from = prepared(seeds, ScalarType::Long);
  const Tensor losses = empty({seeds.numel() * (antithetic ? 2 : 1)}, kFloat);
  const SignMlpArgs args{pointer<float>(inputs),
                         pointer<float>(target),
                         pointer<float>(means),
                         pointer<float>(spread),
                         pointer<int64_t>(from),
                         x.size(0),
                         x.size(1),
                         depth,
                         seeds.numel(),
                         antithetic,
                         output<float>(losses)};
  STD_TORCH_CHECK(depth >= 1 && args.rows > 0 && args.width > 0 && target.numel() == args.rows &&
                      means.numel() == args.parameters() && spread.numel() == args.parameters(),
                  "sign_mlp: x, y, mu, sigma and depth do not fit each other");
  VDK_SELECT_AS(Losses, sign_mlp_losses)(args, torch_parallel());
  return losses;
}

std::tuple<Tensor, Tensor> noise_moments(const Tensor& seeds, const Tensor& weights,
                                         const Tensor& square_weights, int64_t parameters) {
  STD_TORCH_CHECK(
      seeds.numel() == weights.numel() && seeds.numel() == square_weights.numel() && parameters >= 0,
      "noise_moments: there must be two weights a seed");
  const Tensor from = prepared(seeds, ScalarType::Long), by = prepared(weights, ScalarType::Float),
               square_by = prepared(square_weights, ScalarType::Float);
  const Tensor first = empty({parameters}, ScalarType::Float),
               second = empty({parameters}, ScalarType::Float);
  const NoiseMomentsArgs args{pointer<int64_t>(from), pointer<float>(by), pointer<float>(square_by),
                              seeds.numel(),          parameters,         output<float>(first),
                              output<float>(second)};
  VDK_SELECT_AS(Moments, noise_moments)(args, torch_parallel());
  return {first, second};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("sign_mlp_losses", TORCH_BOX(&sign_mlp_losses));
  m.impl("noise_moments", TORCH_BOX(&noise_moments));
}

}  // namespace vdk
