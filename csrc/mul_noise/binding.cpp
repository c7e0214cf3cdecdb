#include "../common/binding.h"
#include "mul_noise.h"

namespace vdk {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class E>
using Multiply = void (*)(const MulNoiseArgs<E>&, const Parallel&);
template <class E, class T>
using Learned = void (*)(const LearnedNoiseArgs<E, T>&, const Parallel&);

NoiseLayout layout_of(const Tensor& x, bool last) {
  const auto sizes = x.sizes();
  const int64_t cols = x.dim() ? sizes[x.dim() - 1] : 1, rows = cols ? x.numel() / cols : 0;
  return {rows, cols, last ? sizes[1] : 0, last ? sizes[2] : 0};
}

Tensor mul_noise(const Tensor& x, const Tensor& seed, const std::string& noise, double strength) {
  const bool last = channels_last(x);
  const Tensor in = dense(x, last, x.scalar_type()), y = result_like(in, last, x.scalar_type());
  with_elements(x.scalar_type(), [&](auto zero) {
    using E = decltype(zero);
    const MulNoiseArgs<E> args{pointer<E>(in),     output<E>(y), layout_of(x, last),
                               noise_named(noise), strength,     seed_of(seed)};
    VDK_SELECT_AS(Multiply<E>, mul_noise)(args, torch_parallel());
  });
  return y;
}

// x, and the parameter's dimensions, in the order of memory.
struct InMemory {
  ChannelRuns runs;
  bool fits;  // the parameter's dimensions follow one another
};

InMemory runs_of(const Tensor& x, const Tensor& parameter, bool last) {
  const auto sizes = x.sizes(), own = parameter.sizes();
  const int64_t lead = x.dim() - parameter.dim();
  InMemory m{{1, 1, 1}, true};
  for (int64_t k = 0; k < x.dim(); ++k) {
    const int64_t order[4] = {0, 2, 3, 1}, d = last ? order[k] : k;
    const bool shared = d < lead || (own[d - lead] == 1 && sizes[d] != 1);
    if (sizes[d] == 1) continue;
    if (!shared) {
      m.fits = m.fits && m.runs.inner == 1;
      m.runs.channels *= sizes[d];
    } else if (m.runs.channels == 1) {
      m.runs.outer *= sizes[d];
    } else {
      m.runs.inner *= sizes[d];
    }
  }
  // one value for all is one long run, which is summed fastest
  if (m.runs.channels == 1) m.runs = {1, 1, m.runs.outer};
  return m;
}

// A parameter as [channels] in the order of x's memory, and back.
Tensor in_memory_order(const Tensor& t, bool last) {
  return last && t.dim() >= 3
             ? torch::stable::contiguous(torch::stable::transpose(
                   torch::stable::transpose(t, t.dim() - 3, t.dim() - 2), t.dim() - 2, t.dim() - 1))
             : torch::stable::contiguous(t);
}
Tensor in_own_order(const Tensor& t, bool last) {
  return last && t.dim() >= 3
             ? torch::stable::contiguous(torch::stable::transpose(
                   torch::stable::transpose(t, t.dim() - 2, t.dim() - 1), t.dim() - 3, t.dim() - 2))
             : t;
}

struct Results {
  Tensor out, dlog_alpha, dbias;
};

// Forward without `dy`, whose gradients are then empty.
Results run(const OptionalTensor& dy, const Tensor& x, const Tensor& log_alpha, const OptionalTensor& bias,
            const Tensor& seed) {
  const Tensor& pattern = bias && log_alpha.numel() == 1 ? *bias : log_alpha;
  const bool was_last = channels_last(x), last = was_last && runs_of(x, pattern, true).fits;
  const InMemory memory = runs_of(x, pattern, last);
  STD_TORCH_CHECK(memory.fits, "mul_noise: log_alpha's dimensions must follow one another in x");
  const ScalarType compute = compute_type(x, log_alpha, bias);
  const ScalarType element = compute == ScalarType::Double ? compute : x.scalar_type();
  const Tensor in = dense(x, last, element), out = result_like(in, last, element);
  const Tensor la = in_memory_order(prepared(log_alpha, compute), last);
  const OptionalTensor b =
      bias ? OptionalTensor(in_memory_order(prepared(*bias, compute), last)) : std::nullopt;
  const OptionalTensor g = dy ? OptionalTensor(dense(*dy, last, element)) : std::nullopt;
  const Tensor dla = dy ? empty_like(la, compute) : empty({0}, compute);
  const Tensor db = dy && b ? empty_like(*b, compute) : empty({0}, compute);
  if (dy && x.numel() == 0) {
    torch::stable::zero_(const_cast<Tensor&>(dla));
    torch::stable::zero_(const_cast<Tensor&>(db));
  }
  with_elements(element, [&](auto zero) {
    using E = decltype(zero);
    using T = std::conditional_t<std::is_same_v<E, double>, double, float>;
    const LearnedNoiseArgs<E, T> args{pointer<E>(in),
                                      pointer<E>(g),
                                      output<E>(out),
                                      layout_of(x, last),
                                      memory.runs,
                                      pointer<T>(la),
                                      la.numel() == 1,
                                      pointer<T>(b),
                                      seed_of(seed),
                                      dy ? output<T>(dla) : nullptr,
                                      dy && b ? output<T>(db) : nullptr};
    using Kernel = Learned<E, T>;
    VDK_SELECT_AS(Kernel, mul_noise_learned)(args, torch_parallel());
  });
  const Tensor result = returned(out, x.scalar_type());
  const Tensor formatted =
      was_last && !last ? torch::stable::contiguous(result, MemoryFormat::ChannelsLast) : result;
  return {formatted, returned(in_own_order(dla, last), log_alpha.scalar_type()),
          returned(in_own_order(db, last), bias ? bias->scalar_type() : log_alpha.scalar_type())};
}

Tensor learned(const Tensor& x, const Tensor& log_alpha, const OptionalTensor& bias, const Tensor& seed) {
  return run(std::nullopt, x, log_alpha, bias, seed).out;
}

std::tuple<Tensor, Tensor, Tensor> learned_backward(const Tensor& dy, const Tensor& x,
                                                    const Tensor& log_alpha, const OptionalTensor& bias,
                                                    const Tensor& seed) {
  const Results r = run(dy, x, log_alpha, bias, seed);
  return {r.out, r.dlog_alpha, r.dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("mul_noise", TORCH_BOX(&mul_noise));
  m.impl("mul_noise_learned", TORCH_BOX(&learned));
  m.impl("mul_noise_learned_backward", TORCH_BOX(&learned_backward));
}

}  // namespace vdk
