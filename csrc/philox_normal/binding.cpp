#include "../common/binding.h"
#include "philox_normal.h"

namespace vdk {
namespace {

template <class T>
using Fill = void (*)(T*, int64_t, int64_t, uint64_t, const Parallel&);

Tensor bits(const Tensor& seed, int64_t rows, int64_t cols) {
  const Tensor out = empty({rows, cols}, ScalarType::Long);
  VDK_SELECT_AS(Fill<int64_t>, philox_bits)(output<int64_t>(out), rows, cols, seed_of(seed),
                                            torch_parallel());
  return out;
}

Tensor normal(const Tensor& seed, int64_t rows, int64_t cols, ScalarType dtype) {
  const ScalarType type = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor out = empty({rows, cols}, type);
  with_compute_type(type, [&](auto zero) {
    using T = decltype(zero);
    const Fill<T> fill = VDK_SELECT_AS(Fill<T>, philox_normal);
    fill(output<T>(out), rows, cols, seed_of(seed), torch_parallel());
  });
  return returned(out, dtype);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vdropkern, CPU, m) {
  m.impl("philox_bits", TORCH_BOX(&bits));
  m.impl("philox_normal", TORCH_BOX(&normal));
}

}  // namespace vdk
