#include "binding.h"
#include "conv2d_lrt/cuda.h"

namespace emu {
namespace {

using vdk::cuda::ConvBackward;
using vdk::cuda::ConvForward;
using vdk::cuda::ConvProblem;
using vdk::cuda::ConvWeights;
using vdk::cuda::Number;
using vdk::cuda::Precision;

// `sizes`: the fields of ConvShape in their order, but for the format.
ConvProblem problem_of(const py::dict& d) {
  const auto s = field<std::vector<int64_t>>(d, "sizes");
  const vdk::ConvShape shape{s.at(0),
                             s.at(1),
                             s.at(2),
                             s.at(3),
                             s.at(4),
                             s.at(5),
                             s.at(6),
                             s.at(7),
                             s.at(8),
                             s.at(9),
                             s.at(10),
                             s.at(11),
                             s.at(12),
                             s.at(13),
                             s.at(14),
                             s.at(15),
                             field<bool>(d, "channels_last")};
  return {shape, Number(field<int>(d, "type")), Precision(field<int>(d, "precision"))};
}
ConvWeights weights_of(const py::dict& d) {
  return {address(d, "mu"), address(d, "log"), field<bool>(d, "is_alpha"), field<bool>(d, "log_is_float"),
          field<float>(d, "exp_clip")};
}
ConvForward forward_of(const py::dict& d) {
  return {problem_of(d),
          weights_of(d),
          address(d, "x"),
          address<float>(d, "bias"),
          address<int64_t>(d, "seed"),
          field<float>(d, "eps"),
          address(d, "y"),
          address<float>(d, "r")};
}
ConvBackward backward_of(const py::dict& d) {
  return {problem_of(d),
          weights_of(d),
          address(d, "dy"),
          address(d, "x"),
          address<float>(d, "r"),
          address(d, "dx"),
          address(d, "dmu"),
          address(d, "dlog"),
          prior_of(field<int>(d, "prior"), field<double>(d, "prior_sd")),
          address<float>(d, "kl_scale")};
}

}  // namespace

VDK_BINDING(conv2d_lrt, m) {
  m.def("conv2d_lrt_forward_workspace", [](const py::dict& d, int multiprocessors) {
    return vdk::cuda::conv2d_lrt_workspace(forward_of(d), multiprocessors);
  });
  m.def("conv2d_lrt_backward_workspace", [](const py::dict& d, int multiprocessors) {
    return vdk::cuda::conv2d_lrt_workspace(backward_of(d), multiprocessors);
  });
  m.def("conv2d_lrt_forward", [](const py::dict& d, int multiprocessors, const Buffer* workspace) {
    vdk::cuda::conv2d_lrt_forward(forward_of(d), multiprocessors, pointer<void>(workspace), nullptr);
  });
  m.def("conv2d_lrt_backward", [](const py::dict& d, int multiprocessors, const Buffer* workspace) {
    vdk::cuda::conv2d_lrt_backward(backward_of(d), multiprocessors, pointer<void>(workspace), nullptr);
  });
}

}  // namespace emu
