#include "binding_cuda.h"

namespace vdk {
namespace {

// The type computed on: bfloat16 is read as it is, other types as float.
ScalarType type_on_gpu(const char* op, const Tensor& x, const Tensor& values) {
  STD_TORCH_CHECK(x.scalar_type() != ScalarType::Double && values.scalar_type() != ScalarType::Double, op,
                  ": the CUDA kernels compute in float32, not in float64");
  return x.scalar_type() == ScalarType::BFloat16 ? ScalarType::BFloat16 : ScalarType::Float;
}

// The type weights are read in.
ScalarType stored_on_gpu(ScalarType x, const Tensor& values) {
  const bool half = x == ScalarType::BFloat16 && values.scalar_type() == ScalarType::BFloat16;
  return half ? ScalarType::BFloat16 : ScalarType::Float;
}

// Calls f(x, value) with null pointers to the types of x and of weights.
template <class F>
void with_spmm_types(ScalarType x, ScalarType stored, F&& f) {
  if (x == ScalarType::Float)
    f(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
  else if (stored == ScalarType::Float)
    f(static_cast<BFloat16*>(nullptr), static_cast<float*>(nullptr));
  else
    f(static_cast<BFloat16*>(nullptr), static_cast<BFloat16*>(nullptr));
}

Tensor run(const char* op, const Tensor& given, const Tensor& values, const Tensor& cols, const Tensor& rows,
           const OptionalTensor& given_order, const OptionalTensor& given_bias, bool relu) {
  const Gpu gpu(given);
  require_on_gpu(op, values, cols, rows, given_order, given_bias);
  check_csr(given, values, cols, rows);
  const ScalarType type = type_on_gpu(op, given, values), stored = stored_on_gpu(type, values);
  const Tensor x = prepared(given, type);
  const CsrOnGpu w(op, values, cols, rows, stored);
  const OptionalTensor bias = prepared(given_bias, ScalarType::Float);
  const OptionalTensor order = prepared(given_order, ScalarType::Int);
  STD_TORCH_CHECK(!bias || bias->numel() == w.out(), op, ": bias must be [O]");
  STD_TORCH_CHECK(!order || order->numel() == w.out(), op, ": order must be [O]");
  const Tensor y = gpu.empty(with_last(given, w.out()), type);
  with_spmm_types(type, stored, [&](auto* element, auto* value) {
    using E = std::remove_pointer_t<decltype(element)>;
    using V = std::remove_pointer_t<decltype(value)>;
    const cuda::SpmmArgs<E, V> args{w.of<V>(x.size(x.dim() - 1)),
                                    rows_of(x),
                                    pointer<int32_t>(order),
                                    pointer<E>(x),
                                    pointer<float>(bias),
                                    relu,
                                    output<E>(y)};
    const Tensor workspace = gpu.workspace(cuda::spmm_workspace(args));
    cuda::spmm(args, workspace.mutable_data_ptr(), gpu.stream());
  });
  return returned(y, given.scalar_type());
}

Tensor spmm(const Tensor& x, const Tensor& values, const Tensor& cols, const Tensor& rows,
            const OptionalTensor& bias) {
  return run("spmm", x, values, cols, rows, std::nullopt, bias, false);
}

Tensor spmm_ordered(const Tensor& x, const Tensor& values, const Tensor& cols, const Tensor& rows,
                    const Tensor& order, const OptionalTensor& bias, bool relu) {
  return run("spmm_ordered", x, values, cols, rows, order, bias, relu);
}

std::tuple<Tensor, Tensor, Tensor> spmm_backward(const Tensor& grad, const Tensor& given,
                                                 const Tensor& given_values, const Tensor& cols,
                                                 const Tensor& rows, bool needs_x, bool needs_values,
                                                 bool needs_bias) {
  const char* const op = "spmm_backward";
  const Gpu gpu(given);
  require_on_gpu(op, grad, given_values, cols, rows);
  check_csr(given, given_values, cols, rows);
  const ScalarType type = type_on_gpu(op, given, given_values), stored = stored_on_gpu(type, given_values);
  const Tensor x = prepared(given, type), dy = prepared(grad, type);
  const CsrOnGpu w(op, given_values, cols, rows, stored);
  const int64_t batch = rows_of(x);
  STD_TORCH_CHECK(dy.numel() == batch * w.out(), "spmm_backward: grad_y must be [*, O]");
  // results must not share memory, so each that is not needed is an empty tensor of its own
  const Tensor dx = needs_x ? gpu.empty_like(x, type) : gpu.empty({0}, type);
  const Tensor dvalues = gpu.empty({needs_values ? w.values.numel() : 0}, ScalarType::Float);
  const Tensor dbias = gpu.empty({needs_bias ? w.out() : 0}, ScalarType::Float);
  with_spmm_types(type, stored, [&](auto* element, auto* value) {
    using E = std::remove_pointer_t<decltype(element)>;
    using V = std::remove_pointer_t<decltype(value)>;
    const cuda::SpmmGradientArgs<E, V> args{w.of<V>(x.size(x.dim() - 1)),
                                            batch,
                                            pointer<E>(x),
                                            pointer<E>(dy),
                                            needs_x ? output<E>(dx) : nullptr,
                                            needs_values ? output<float>(dvalues) : nullptr,
                                            needs_bias ? output<float>(dbias) : nullptr};
    const Tensor workspace = gpu.workspace(cuda::spmm_workspace(args));
    cuda::spmm_backward(args, workspace.mutable_data_ptr(), gpu.stream());
  });
  return {returned(dx, given.scalar_type()), returned(dvalues, given_values.scalar_type()), dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CUDA, m) {
  m.impl("spmm", TORCH_BOX(&spmm));
  m.impl("spmm_backward", TORCH_BOX(&spmm_backward));
  m.impl("spmm_ordered", TORCH_BOX(&spmm_ordered));
}

}  // namespace vdk
