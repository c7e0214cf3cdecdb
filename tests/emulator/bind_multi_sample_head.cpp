#include "binding.h"
#include "multi_sample_head/cuda.h"

namespace emu {
namespace {

using vdk::cuda::MultiSampleHead;

MultiSampleHead head_of(const py::dict& d) {
  return {field<int64_t>(d, "rows"),
          field<int64_t>(d, "features"),
          field<int64_t>(d, "classes"),
          field<int64_t>(d, "samples"),
          vdk::cuda::Number(field<int>(d, "type")),
          vdk::cuda::Precision(field<int>(d, "precision")),
          address(d, "h"),
          address(d, "weight"),
          address<float>(d, "bias"),
          address<int64_t>(d, "target"),
          address<float>(d, "class_weight"),
          address<int64_t>(d, "seed"),
          field<double>(d, "p"),
          field<int64_t>(d, "ignore_index"),
          field<float>(d, "smoothing"),
          field<bool>(d, "mean"),
          address<float>(d, "row_scale"),
          address<float>(d, "loss"),
          address<float>(d, "losses"),
          address<float>(d, "dh"),
          address<float>(d, "dweight"),
          address<float>(d, "dbias")};
}

}  // namespace

VDK_BINDING(multi_sample_head, m) {
  m.def("multi_sample_head_workspace", [](const py::dict& d, int multiprocessors) {
    return vdk::cuda::multi_sample_head_workspace(head_of(d), multiprocessors);
  });
  m.def("multi_sample_head", [](const py::dict& d, int multiprocessors, const Buffer* workspace) {
    vdk::cuda::multi_sample_head(head_of(d), 90, multiprocessors, pointer<void>(workspace), nullptr);
  });
}

}  // namespace emu
