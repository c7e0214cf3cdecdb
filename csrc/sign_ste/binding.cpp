#include "../common/binding.h"
#include "sign_ste.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class E>
using Forward = void (*)(const SignArgs<E>&, const Parallel&);
template <class E>
using Backward = void (*)(const SignBackwardArgs<E>&, const Parallel&);

// The strength is the slope of `steep` and the beta of `swish`.
SteRule rule_of(const std::string& name, double strength) {
  const auto box = [](double low, double high, int levels = 0, bool stochastic = false) {
    return SteRule{Slope::kBox, levels, stochastic, 1, low, high};
  };
  if (name == "identity") return {Slope::kIdentity, 0, false, 1, 0, 0};
  if (name == "hard-tanh") return box(-1, 1);
  if (name == "steep") return {Slope::kBox, 0, false, strength, -1 / strength, 1 / strength};
  if (name == "swish") return {Slope::kSwish, 0, false, strength, 0, 0};
  if (name == "polynomial") return {Slope::kPolynomial, 0, false, 1, 0, 0};
  if (name == "stochastic") return box(-1, 1, 0, true);
  if (name == "clipped") return box(0, 1, 1);
  if (name == "ternary") return box(0, 1, 2);
  STD_TORCH_CHECK(name == "two-bit", "sign_ste: unknown estimator ", name);
  return box(0, 1, 3);
}

std::tuple<Tensor, Tensor> sign_ste(const Tensor& x, const OptionalTensor& seed, const std::string& estimator,
                                    double strength, bool needs_gate) {
  const SteRule rule = rule_of(estimator, strength);
  STD_TORCH_CHECK(!rule.stochastic || seed, "sign_ste: stochastic signs need a seed");
  // random words are counted in row-major order
  const bool was_last = channels_last(x), last = was_last && !rule.stochastic;
  const ScalarType type = x.scalar_type();
  const Tensor in = dense(x, last, type), y = result_like(in, last, type);
  const bool gated = needs_gate && rule.slope == Slope::kBox;
  const Tensor gate = empty({gated ? (x.numel() + 63) / 64 : 0}, ScalarType::Long);
  const int64_t cols = x.dim() ? x.size(x.dim() - 1) : 1;
  // Gates follow the memory of the result; random signs of a channels-last x are drawn first and moved after.
  const bool apart = gated && was_last && rule.stochastic;
  with_elements(type, [&](auto zero) {
    using E = decltype(zero);
    SignArgs<E> args{pointer<E>(in),
                     x.numel(),
                     cols ? x.numel() / cols : 0,
                     cols,
                     rule,
                     rule.stochastic ? seed_of(*seed) : 0,
                     output<E>(y),
                     gated && !apart ? output<uint64_t>(gate) : nullptr};
    VDK_SELECT_AS(Forward<E>, sign_ste)(args, torch_parallel());
    if (!apart) return;
    const Tensor moved = dense(x, true, type), unused = result_like(moved, true, type);
    args.x = pointer<E>(moved);
    args.rule.stochastic = false;
    args.y = output<E>(unused);
    args.gate = output<uint64_t>(gate);
    VDK_SELECT_AS(Forward<E>, sign_ste)(args, torch_parallel());
  });
  return {was_last && !last ? dense(y, true, type) : y, gate};
}

Tensor sign_ste_backward(const Tensor& grad, const OptionalTensor& x, const OptionalTensor& gate,
                         const std::string& estimator, double strength, bool last) {
  const SteRule rule = rule_of(estimator, strength);
  STD_TORCH_CHECK(rule.slope == Slope::kBox ? gate.has_value() : x.has_value(), "sign_ste: the gradient of ",
                  estimator, " lacks what was saved");
  const ScalarType type =
      x && x->scalar_type() == ScalarType::Double ? ScalarType::Double : grad.scalar_type();
  const Tensor dy = dense(grad, last, type), dx = result_like(dy, last, type);
  const OptionalTensor in = x ? OptionalTensor(dense(*x, last, type)) : std::nullopt;
  with_elements(type, [&](auto zero) {
    using E = decltype(zero);
    const SignBackwardArgs<E> args{pointer<E>(dy), pointer<E>(in), pointer<uint64_t>(gate),
                                   grad.numel(),   rule,           output<E>(dx)};
    VDK_SELECT_AS(Backward<E>, sign_ste_backward)(args, torch_parallel());
  });
  return returned(dx, grad.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("sign_ste", TORCH_BOX(&sign_ste));
  m.impl("sign_ste_backward", TORCH_BOX(&sign_ste_backward));
}

}  // namespace vdk
