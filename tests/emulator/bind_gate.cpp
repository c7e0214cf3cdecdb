#include "binding.h"
#include "cuda/simt.cuh"
#include "gate/cuda.h"

namespace emu {
namespace {

using Sizes = std::array<int64_t, 3>;  // rows, channels, spatial

int64_t workspace(const Sizes& s, bool channels_last, int kind) {
  return vdk::cuda::gate_workspace({s[0], s[1], s[2], channels_last}, vdk::GateKind(kind));
}

template <class E>
void gate(const Sizes& s, bool channels_last, int kind, const Buffer* location, const Buffer* log_sigma2,
          const Buffer* seed, bool per_sample, const std::array<double, 3>& numbers, const Buffer* given,
          const Buffer* x, const Buffer* out, const std::array<const Buffer*, 3>& sums) {
  using C = vdk::ComputeOf<E>;
  const auto [temperature, low, high] = numbers;
  const auto [d_location, d_log_sigma2, to_workspace] = sums;
  vdk::cuda::gate(vdk::cuda::GateArgs<E>{{s[0], s[1], s[2], channels_last},
                                         vdk::GateKind(kind),
                                         pointer<C>(location),
                                         pointer<C>(log_sigma2),
                                         pointer<int64_t>(seed),
                                         per_sample,
                                         temperature,
                                         low,
                                         high,
                                         pointer<E>(given),
                                         pointer<E>(x),
                                         pointer<E>(out),
                                         pointer<C>(d_location),
                                         pointer<C>(d_log_sigma2),
                                         pointer<C>(to_workspace)},
                  nullptr);
}

}  // namespace

VDK_BINDING(gate, m) {
  m.def("gate_workspace", &workspace);
  m.def("gate_float32", &gate<float>);
  m.def("gate_float64", &gate<double>);
  m.def("gate_float16", &gate<vdk::Float16>);
  m.def("gate_bfloat16", &gate<vdk::BFloat16>);
}

}  // namespace emu
