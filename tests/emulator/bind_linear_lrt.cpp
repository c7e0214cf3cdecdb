#include "binding.h"
#include "linear_lrt/cuda.h"

namespace emu {
namespace {

using vdk::cuda::LrtBackward;
using vdk::cuda::LrtForward;
using vdk::cuda::LrtShape;
using vdk::cuda::LrtWeights;
using vdk::cuda::Number;
using vdk::cuda::Precision;

LrtShape shape_of(const py::dict& d) {
  return {field<int64_t>(d, "batch"), field<int64_t>(d, "out"), field<int64_t>(d, "inp"),
          Number(field<int>(d, "type")), Precision(field<int>(d, "precision"))};
}
LrtWeights weights_of(const py::dict& d) {
  return {address(d, "mu"),
          address(d, "log"),
          field<int64_t>(d, "log_rows"),
          field<int64_t>(d, "log_cols"),
          field<bool>(d, "is_alpha"),
          field<bool>(d, "log_is_float"),
          field<float>(d, "exp_clip")};
}
LrtForward forward_of(const py::dict& d) {
  return {shape_of(d),
          weights_of(d),
          address(d, "x"),
          address<float>(d, "bias"),
          address<int64_t>(d, "seed"),
          field<float>(d, "eps"),
          address(d, "y"),
          address<float>(d, "std"),
          prior_of(field<int>(d, "prior"), field<double>(d, "prior_sd")),
          address<float>(d, "kl")};
}
LrtBackward backward_of(const py::dict& d) {
  return {shape_of(d),
          weights_of(d),
          address(d, "dy"),
          address(d, "x"),
          address<float>(d, "std"),
          address<int64_t>(d, "seed"),
          address(d, "dx"),
          address(d, "dmu"),
          address(d, "dlog"),
          address<float>(d, "dbias"),
          prior_of(field<int>(d, "prior"), field<double>(d, "prior_sd")),
          address<float>(d, "kl_scale")};
}

}  // namespace

VDK_BINDING(linear_lrt, m) {
  m.def("linear_lrt_forward_workspace", [](const py::dict& d, int multiprocessors) {
    return vdk::cuda::linear_lrt_workspace(forward_of(d), multiprocessors);
  });
  m.def("linear_lrt_backward_workspace", [](const py::dict& d, int multiprocessors) {
    return vdk::cuda::linear_lrt_workspace(backward_of(d), multiprocessors);
  });
  m.def("linear_lrt_forward", [](const py::dict& d, int multiprocessors, const Buffer* workspace) {
    vdk::cuda::linear_lrt_forward(forward_of(d), multiprocessors, pointer<void>(workspace), nullptr);
  });
  m.def("linear_lrt_backward", [](const py::dict& d, int multiprocessors, const Buffer* workspace) {
    vdk::cuda::linear_lrt_backward(backward_of(d), multiprocessors, pointer<void>(workspace), nullptr);
  });
}

}  // namespace emu
