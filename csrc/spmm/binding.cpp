#include "../common/binding.h"
#include "checks.h"
#include "spmm.h"

namespace vdk {
namespace {

Pack pack_of(const Tensor& packed, int64_t in) {
  Pack pack;
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous() &&
                      read_pack(packed.const_data_ptr(), packed.numel(), pack) && pack.h.plane == 0,
                  "spmm_packed: packed is no matrix that ops.spmm.pack made");
  STD_TORCH_CHECK(pack.h.in == in, "spmm_packed: a matrix of ", pack.h.in, " columns got ", in, " inputs");
  return pack;
}

Tensor run_packed(const Tensor& given, const Pack* layers, const bool* relu, int64_t count) {
  STD_TORCH_CHECK(given.scalar_type() != ScalarType::Double, "spmm_packed: x must not be float64");
  const Tensor x = prepared(given, ScalarType::Float);
  const Tensor y = empty(with_last(given, layers[count - 1].h.out), ScalarType::Float);
  const int64_t batch = rows_of(given);
  if (batch > 0) {
    using Kernel = void (*)(const PackedArgs&, const Parallel&);
    VDK_SELECT_AS(Kernel, spmm_packed)
    ({layers, relu, count, batch, pointer<float>(x), output<float>(y)}, torch_parallel());
  }
  return returned(y, given.scalar_type());
}

Tensor spmm_packed(const Tensor& x, const Tensor& packed, int64_t out, bool relu) {
  STD_TORCH_CHECK(x.dim() > 0, "spmm_packed: x must be [*, I]");
  const Pack pack = pack_of(packed, x.size(x.dim() - 1));
  STD_TORCH_CHECK(pack.h.out == out, "spmm_packed: the matrix has ", pack.h.out, " rows, not ", out);
  return run_packed(x, &pack, &relu, 1);
}

Tensor spmm_chain(const Tensor& x, const Tensor& chain, int64_t out) {
  Pack layers[kMostLayers];
  bool relu[kMostLayers];
  int64_t count = -1;
  if (chain.scalar_type() == ScalarType::Byte && chain.is_contiguous())
    count = read_chain(chain.const_data_ptr(), chain.numel(), layers, relu);
  STD_TORCH_CHECK(count > 0, "spmm_chain: chain is none that ops.spmm.pack made");
  STD_TORCH_CHECK(x.dim() > 0 && x.size(x.dim() - 1) == layers[0].h.in && layers[count - 1].h.out == out,
                  "spmm_chain: x must be [*, ", layers[0].h.in, "], and out_features ",
                  layers[count - 1].h.out);
  return run_packed(x, layers, relu, count);
}

template <class T, class I>
using CsrKernel = void (*)(const CsrArgs<T, I>&, const Parallel&);

// Calls f(T{}, I{}) with the C++ types of the computation and of the indices.
template <class F>
void with_csr_types(ScalarType type, const Tensor& indices, F&& f) {
  with_compute_type(type, [&](auto zero) {
    if (indices.scalar_type() == ScalarType::Long)
      f(zero, int64_t{});
    else
      f(zero, int32_t{});
  });
}

Tensor spmm(const Tensor& given, const Tensor& given_values, const Tensor& given_cols,
            const Tensor& given_rows, const std::optional<Tensor>& given_bias) {
  check_csr(given, given_values, given_cols, given_rows);
  const ScalarType type = compute_type(given, given_values);
  const Tensor x = prepared(given, type), values = prepared(given_values, type);
  const Tensor cols = torch::stable::contiguous(given_cols), rows = torch::stable::contiguous(given_rows);
  const std::optional<Tensor> bias = prepared(given_bias, type);
  const int64_t out = rows.numel() - 1;
  STD_TORCH_CHECK(!bias || bias->numel() == out, "spmm: bias must be [O]");
  const Tensor y = empty(with_last(given, out), type);
  if (y.numel() > 0)
    with_csr_types(type, cols, [&](auto zero, auto index) {
      using T = decltype(zero);
      using I = decltype(index);
      const CsrArgs<T, I> args{rows_of(x),
                               x.size(x.dim() - 1),
                               out,
                               pointer<T>(x),
                               pointer<T>(values),
                               pointer<I>(cols),
                               pointer<I>(rows),
                               pointer<T>(bias),
                               output<T>(y),
                               nullptr,
                               nullptr,
                               nullptr};
      using Kernel = CsrKernel<T, I>;
      VDK_SELECT_AS(Kernel, spmm)(args, torch_parallel());
    });
  return returned(y, given.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> spmm_backward(const Tensor& grad, const Tensor& given,
                                                 const Tensor& given_values, const Tensor& given_cols,
                                                 const Tensor& given_rows, bool needs_x, bool needs_values,
                                                 bool needs_bias) {
  check_csr(given, given_values, given_cols, given_rows);
  const ScalarType type = compute_type(given, given_values);
  const Tensor x = prepared(given, type), values = prepared(given_values, type), dy = prepared(grad, type);
  const Tensor cols = torch::stable::contiguous(given_cols), rows = torch::stable::contiguous(given_rows);
  const int64_t out = rows.numel() - 1, batch = rows_of(x);
  STD_TORCH_CHECK(dy.numel() == batch * out, "spmm_backward: grad_y must be [*, O]");
  // results must not share memory, so each that is not needed is an empty tensor of its own
  Tensor dx = needs_x ? empty_like(x, type) : empty({0}, type);
  Tensor dvalues = empty({needs_values ? values.numel() : 0}, type);
  Tensor dbias = empty({needs_bias ? out : 0}, type);
  if (batch > 0)
    with_csr_types(type, cols, [&](auto zero, auto index) {
      using T = decltype(zero);
      using I = decltype(index);
      const CsrArgs<T, I> args{batch,
                               x.size(x.dim() - 1),
                               out,
                               pointer<T>(x),
                               pointer<T>(values),
                               pointer<I>(cols),
                               pointer<I>(rows),
                               nullptr,
                               const_cast<T*>(pointer<T>(dy)),
                               needs_x ? output<T>(dx) : nullptr,
                               needs_values ? output<T>(dvalues) : nullptr,
                               needs_bias ? output<T>(dbias) : nullptr};
      using Kernel = CsrKernel<T, I>;
      VDK_SELECT_AS(Kernel, spmm_backward)(args, torch_parallel());
    });
  else
    for (Tensor* t : {&dx, &dvalues, &dbias}) torch::stable::zero_(*t);
  return {returned(dx, given.scalar_type()), returned(dvalues, given_values.scalar_type()), dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("spmm", TORCH_BOX(&spmm));
  m.impl("spmm_backward", TORCH_BOX(&spmm_backward));
  m.impl("spmm_packed", TORCH_BOX(&spmm_packed));
  m.impl("spmm_chain", TORCH_BOX(&spmm_chain));
}

}  // namespace vdk
