// Single warp-wide instructions on registers and shared memory that the caller fills:
// tests/emulator/test_layouts.py holds them against the tables of the PTX ISA.
#include "binding.h"
#include "cuda/launch.cuh"

namespace emu {
namespace {

enum class Mma : int { kTf32, kBf16, kF16 };

struct MmaArgs {
  const uint32_t *a, *b;  // [32, 4], [32, 2] registers
  float* d;               // [32, 4], in place
  Mma kind;
};

VDK_KERNEL void mma_kernel(MmaArgs args) {
  uint32_t a[4], b[2];
  float d[4];
  const int lane = int(threadIdx.x);
  for (int i = 0; i < 4; ++i) a[i] = vdk::load_global<uint32_t>(args.a + 4 * lane + i);
  for (int i = 0; i < 2; ++i) b[i] = vdk::load_global<uint32_t>(args.b + 2 * lane + i);
  for (int i = 0; i < 4; ++i) d[i] = vdk::load_global<float>(args.d + 4 * lane + i);
  if (args.kind == Mma::kTf32)
    vdk::mma_m16n8k8_tf32(d, a, b);
  else if (args.kind == Mma::kBf16)
    vdk::mma_m16n8k16_bf16(d, a, b);
  else
    vdk::mma_m16n8k16_f16(d, a, b);
  for (int i = 0; i < 4; ++i) vdk::store_global(args.d + 4 * lane + i, d[i]);
}

struct MmaBitsArgs {
  const uint32_t *a, *b;  // [32, 4], [32, 2] registers
  int32_t* d;             // [32, 4], in place
};

VDK_KERNEL void mma_bits_kernel(MmaBitsArgs args) {
  uint32_t a[4], b[2];
  int32_t d[4];
  const int lane = int(threadIdx.x);
  for (int i = 0; i < 4; ++i) a[i] = vdk::load_global<uint32_t>(args.a + 4 * lane + i);
  for (int i = 0; i < 2; ++i) b[i] = vdk::load_global<uint32_t>(args.b + 2 * lane + i);
  for (int i = 0; i < 4; ++i) d[i] = vdk::load_global<int32_t>(args.d + 4 * lane + i);
  vdk::mma_m16n8k256_b1(d, a, b);
  for (int i = 0; i < 4; ++i) vdk::store_global(args.d + 4 * lane + i, d[i]);
}

struct LdmatrixArgs {
  const uint4* memory;     // [n], copied to shared memory
  const int32_t* offsets;  // [32] bytes
  uint32_t* r;             // [32, 4]
  int n;
  bool trans;
};

VDK_KERNEL void ldmatrix_kernel(LdmatrixArgs args) {
  VDK_SHARED(uint4, memory);
  const int lane = int(threadIdx.x);
  for (int i = lane; i < args.n; i += 32) memory[i] = vdk::load_global<uint4>(args.memory + i);
  __syncthreads();
  const void* const row =
      reinterpret_cast<const char*>(memory) + vdk::load_global<int32_t>(args.offsets + lane);
  uint32_t r[4];
  if (args.trans)
    vdk::ldmatrix_x4_trans(r, row);
  else
    vdk::ldmatrix_x4(r, row);
  for (int i = 0; i < 4; ++i) vdk::store_global(args.r + 4 * lane + i, r[i]);
}

struct ScalarArgs {
  const float* x;
  uint32_t* y;
  int64_t n;
  int what;
};

VDK_KERNEL void scalar_kernel(ScalarArgs args) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.n) return;
  const float x = vdk::load_global<float>(args.x + i);
  uint32_t y = 0;
  switch (args.what) {
    case 0:
      y = vdk::to_tf32(x);
      break;
    case 1:
      y = vdk::pack<vdk::BFloat16>(x, 0.0f);
      break;
    case 2:
      y = vdk::pack<vdk::Float16>(x, 0.0f);
      break;
    case 3:
      y = vdk::as_uint(vdk::to_float(vdk::Float16{uint16_t(vdk::as_uint(x))}));
      break;
  }
  vdk::store_global(args.y + i, y);
}

}  // namespace

VDK_BINDING(instructions, m) {
  m.def("mma", [](int kind, const Buffer& a, const Buffer& b, const Buffer& d) {
    VDK_LAUNCH(mma_kernel, vdk::Grid{1}, 32, 0, nullptr,
               MmaArgs{pointer<uint32_t>(&a), pointer<uint32_t>(&b), pointer<float>(&d), Mma(kind)});
  });
  m.def("mma_bits", [](const Buffer& a, const Buffer& b, const Buffer& d) {
    VDK_LAUNCH(mma_bits_kernel, vdk::Grid{1}, 32, 0, nullptr,
               MmaBitsArgs{pointer<uint32_t>(&a), pointer<uint32_t>(&b), pointer<int32_t>(&d)});
  });
  m.def("ldmatrix", [](const Buffer& memory, const Buffer& offsets, const Buffer& r, bool trans) {
    VDK_LAUNCH(ldmatrix_kernel, vdk::Grid{1}, 32, memory.bytes, nullptr,
               LdmatrixArgs{pointer<uint4>(&memory), pointer<int32_t>(&offsets), pointer<uint32_t>(&r),
                            int(memory.bytes / 16), trans});
  });
  m.def("convert", [](int what, const Buffer& x, const Buffer& y) {
    const int64_t n = int64_t(x.bytes / 4);
    VDK_LAUNCH(scalar_kernel, vdk::Grid{vdk::ceil_div(n, 256)}, 256, 0, nullptr,
               ScalarArgs{pointer<float>(&x), pointer<uint32_t>(&y), n, what});
  });
}

}  // namespace emu
