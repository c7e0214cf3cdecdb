// A convolution by its packed weight on the CPU, for the ops that run one.
#pragma once
#include "checks.h"
#include "sparse_conv2d.h"

namespace vdk {

// Of x [N, C, H, W], float and dense; `band` rows of outputs as ops/sparse_conv2d/plane.py decides.
inline Tensor sparse_conv2d_of(const char* op, const Tensor& x, const Tensor& packed, int64_t out_channels,
                               const ConvSizes& s, int64_t band, bool relu) {
  Pack pack;
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous() &&
                      read_pack(packed.const_data_ptr(), packed.numel(), pack),
                  op, ": packed is no matrix that ops.spmm.pack made");
  STD_TORCH_CHECK(band > 0 && band <= s.out_h, op, ": band must lie in [1, ", s.out_h, "]");
  const ConvPlane plane{s.stride[0], s.stride[1], band + (s.kernel[0] - 1) * s.dilation[0] / s.stride[0],
                        s.out_w + (s.kernel[1] - 1) * s.dilation[1] / s.stride[1], band};
  constexpr int64_t kMost = 1 << 16;  // what indices reach: beyond it, a plane's size could overflow
  STD_TORCH_CHECK(plane.phases_h <= kMost / 2 && plane.phases_w <= kMost / 2 && plane.rows < kMost &&
                      plane.cols < kMost && plane.size() < kMost,
                  op, ": a channel's plane is too large");
  STD_TORCH_CHECK(pack.h.in == s.channels * s.kernel[0] * s.kernel[1] && pack.h.out == out_channels &&
                      pack.h.plane == plane.size() && pack.columns[pack.h.blocks] == s.channels,
                  op, ": packed was made for another convolution or image size");
  const PackHeader& h = pack.h;
  STD_TORCH_CHECK(h.pieces == 0 || h.cell_plane == plane.phases_h * plane.phases_w *
                                                       (h.cell_rows + plane.rows - plane.band) *
                                                       (h.cell_cols + plane.cols - s.out_w),
                  op, ": packed was made for another convolution");
  const Tensor y = empty({s.batch, out_channels, s.out_h, s.out_w}, ScalarType::Float);
  using Kernel = void (*)(const SparseConvArgs&, const Parallel&);
  if (y.numel() > 0) VDK_SELECT_AS(Kernel, sparse_conv2d)
  ({pack, plane, s.batch, s.channels, s.height, s.width, s.padding[0], s.padding[1], s.out_h, s.out_w, relu,
    pointer<float>(x), output<float>(y)},
   torch_parallel());
  return y;
}

}  // namespace vdk
