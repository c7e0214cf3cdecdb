// Kernels with known mistakes, to see that the emulator and the sanitizers catch them, and the same kernels
// without.
#pragma once
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "cuda/launch.cuh"
#include "mutants_gather.cuh"
#include "mutants_select.cuh"
#include "mutants_masked.cuh"
#include "mutants_rows.cuh"
#include "mutants_patches.cuh"

namespace mutants {

enum class Bug {
  kNone,
  // of the product
  kNoBarrierAfterWait,  // others' copies are read before they are known to have landed
  kNoBarrierAtLoopEnd,  // a buffer is filled again while others still read it
  kWaitTooLate,         // one group more in flight than there should be
  kSharedRowShort,      // one row of shared memory too few
  kRowBoundMissing,     // rows beyond the matrix are copied
  kStoreBoundMissing,   // and written
  kLdmatrixWrongRow,    // one row off
  kLdmatrixHalfWarp,    // by half of the lanes
  kCopyMisaligned,      // a source 8 bytes off
  kCopyLeftInFlight,    // a prefetch nobody waits for
  // of the sum
  kNoBarrierBeforeRead,
  kDivergentBarrier,
  kEarlyExit,            // of some threads, before a barrier
  kDivergentShuffle,     // lanes of the mask that never come
  kShuffleOutsideMask,   // a lane is read that is not in the mask
  kLostAtomic,           // += by many blocks
  kLostAtomicUncounted,  // the same past load_global and store_global
  kSharedIndexOff,       // by one
  kLoadBoundMissing,
  // of the launch
  kTooManyThreads,
  kTooMuchShared,
};

constexpr int kRows = 32, kCols = 16, kDepth = 16;  // of a tile; 2 warps of 16 rows
constexpr int kPitch = 24;                          // in halves: 48 bytes, no two rows in one bank group
constexpr int kStages = 2;

struct Product {
  const uint16_t *a, *b;  // bf16 [m, k], [k, n]; n and k multiples of 16
  float* c;               // [m, n]
  int m, n, k;
};

template <Bug kBug>
VDK_DEVICE void copy_tiles(const Product& p, uint16_t* a, uint16_t* b, int row0, int col0, int k0) {
  const int tid = int(threadIdx.x), row = tid / 2, half = tid % 2 * 8;
  const bool valid = kBug == Bug::kRowBoundMissing || row0 + row < p.m;
  const int shift = kBug == Bug::kCopyMisaligned ? 4 : 0;
  vdk::cp_async16(a + row * kPitch + half, p.a + int64_t(valid ? row0 + row : 0) * p.k + k0 + half - shift,
                  valid);
  if (tid < 32) vdk::cp_async16(b + row * kPitch + half, p.b + int64_t(k0 + row) * p.n + col0 + half, true);
  vdk::cp_async_commit();
}

// c = a b with copies one step ahead of the tensor cores.
template <Bug kBug>
VDK_KERNEL void __launch_bounds__(64) product_kernel(Product p) {
  constexpr int kA = kRows * kPitch, kB = (kDepth - (kBug == Bug::kSharedRowShort)) * kPitch;
  VDK_SHARED_ARRAY(uint16_t, a, kStages* kA);
  VDK_SHARED_ARRAY(uint16_t, b, kStages* kB);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int row0 = int(blockIdx.y) * kRows, col0 = int(blockIdx.x) * kCols, steps = p.k / kDepth;
  float acc[2][4] = {};
  copy_tiles<kBug>(p, a, b, row0, col0, 0);
  for (int step = 0; step < steps; ++step) {
    const int next = step + 1;
    if (next < steps || kBug == Bug::kCopyLeftInFlight)
      copy_tiles<kBug>(p, a + next % kStages * kA, b + next % kStages * kB, row0, col0,
                       next % steps * kDepth);
    else
      vdk::cp_async_commit();
    vdk::cp_async_wait<kBug == Bug::kWaitTooLate ? 2 : 1>();
    if constexpr (kBug != Bug::kNoBarrierAfterWait) __syncthreads();
    const uint16_t *const a_now = a + step % kStages * kA, *const b_now = b + step % kStages * kB;
    uint32_t fa[4], fb[4];
    const int row = lane % 16, col = lane / 16 * 8;
    const int a_row = warp * 16 + row + (kBug == Bug::kLdmatrixWrongRow ? 1 : 0);
    if (kBug != Bug::kLdmatrixHalfWarp || lane < 16) vdk::ldmatrix_x4(fa, a_now + a_row * kPitch + col);
    vdk::ldmatrix_x4_trans(fb, b_now + row * kPitch + col);
    for (int j = 0; j < 2; ++j) {
      const uint32_t pair[2] = {fb[2 * j], fb[2 * j + 1]};
      vdk::mma_m16n8k16_bf16(acc[j], fa, pair);
    }
    if constexpr (kBug != Bug::kNoBarrierAtLoopEnd) __syncthreads();
  }
  for (int j = 0; j < 2; ++j)
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + warp * 16 + lane / 4 + i / 2 * 8, col = col0 + 8 * j + lane % 4 * 2 + i % 2;
      if (kBug == Bug::kStoreBoundMissing || row < p.m)
        vdk::store_global(p.c + int64_t(row) * p.n + col, acc[j][i]);
    }
}

struct Sum {
  const float* x;  // [n]
  float* sum;      // [1]
  int n;
};

constexpr int kSumThreads = 96;

template <Bug kBug>
VDK_KERNEL void __launch_bounds__(kSumThreads) sum_kernel(Sum s) {
  VDK_SHARED_ARRAY(float, of_warp, kSumThreads / 32);
  const int tid = int(threadIdx.x), i = int(blockIdx.x) * kSumThreads + tid;
  float x = kBug == Bug::kLoadBoundMissing || i < s.n ? vdk::load_global<float>(s.x + i) : 0.0f;
  if (kBug == Bug::kEarlyExit && i >= s.n) return;
  if (kBug != Bug::kDivergentShuffle || tid % 32 < 20)
    for (int step = 16; step > 0; step /= 2) {
      const unsigned mask = kBug == Bug::kShuffleOutsideMask && tid % 32 < 16 ? 0x0000FFFFu
                            : kBug == Bug::kShuffleOutsideMask                ? 0xFFFF0000u
                                                                              : ~0u;
      x += __shfl_xor_sync(mask, x, step);
    }
  if (tid % 32 == 0) of_warp[tid / 32 + (kBug == Bug::kSharedIndexOff ? 1 : 0)] = x;
  if constexpr (kBug == Bug::kDivergentBarrier) {
    if (tid < 32)
      __syncthreads();
    else
      __syncthreads();
  } else if constexpr (kBug != Bug::kNoBarrierBeforeRead) {
    __syncthreads();
  }
  if (tid != 0) return;
  for (int w = 1; w < kSumThreads / 32; ++w) x += of_warp[w];
  if constexpr (kBug == Bug::kLostAtomic)
    vdk::store_global(s.sum, vdk::load_global<float>(s.sum) + x);
  else if constexpr (kBug == Bug::kLostAtomicUncounted)
    *s.sum += x;
  else
    atomicAdd(s.sum, x);
}

struct Empty {};
VDK_KERNEL inline void empty_kernel(Empty) {}

// bf16 of small integers is exact, and so are the products and sums made of them.
inline uint16_t bf16_of(int x) { return uint16_t(vdk::as_uint(float(x)) >> 16); }

// The largest error of the product; infinite for NaN, which would lose itself among comparisons.
template <Bug kBug>
double product_error(int m, int n, int k) {
  std::mt19937 random(7);
  std::vector<int> a(size_t(m) * k), b(size_t(k) * n);
  // in memory of just this size, so that reading on shows
  std::vector<uint16_t> a_bits(a.size()), b_bits(b.size());
  std::vector<float> c(size_t(m) * n, NAN);
  for (size_t i = 0; i < a.size(); ++i) a_bits[i] = bf16_of(a[i] = int(random() % 15) - 7);
  for (size_t i = 0; i < b.size(); ++i) b_bits[i] = bf16_of(b[i] = int(random() % 15) - 7);
  emu::Buffer buffers[] = {{"a", a_bits.data(), 2 * a.size(), false},
                           {"b", b_bits.data(), 2 * b.size(), false},
                           {"c", c.data(), 4 * c.size(), true}};
  (void)buffers;
  VDK_LAUNCH(product_kernel<kBug>, vdk::Grid{n / kCols, vdk::ceil_div(m, kRows)}, 64, 0, nullptr,
             Product{a_bits.data(), b_bits.data(), c.data(), m, n, k});
  double worst = 0;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double exact = 0;
      for (int l = 0; l < k; ++l) exact += double(a[size_t(i) * k + l]) * b[size_t(l) * n + j];
      const double error = std::fabs(c[size_t(i) * n + j] - exact);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  return worst;
}

template <Bug kBug>
double sum_error(int n) {
  std::vector<float> x(n);
  double exact = 0;
  for (int i = 0; i < n; ++i) exact += x[i] = float(i % 17 - 5);
  float sum = 0;
  emu::Buffer buffers[] = {{"x", x.data(), 4 * x.size(), false}, {"sum", &sum, 4, true}};
  (void)buffers;
  VDK_LAUNCH(sum_kernel<kBug>, vdk::Grid{vdk::ceil_div(n, kSumThreads)}, kSumThreads, 0, nullptr,
             Sum{x.data(), &sum, n});
  return std::fabs(sum - exact);
}

struct Mutant {
  const char* name;
  double (*error)();  // of the result: anything but 0 shows the mistake
};

template <Bug kBug>
double error_of_product() {
  return product_error<kBug>(41, 32, 64);
}
template <Bug kBug>
double error_of_sum() {
  return sum_error<kBug>(1000);
}

inline const std::vector<Mutant>& all() {
  static const std::vector<Mutant> mutants = {
      {"product", &error_of_product<Bug::kNone>},
      {"sum", &error_of_sum<Bug::kNone>},
      {"no barrier after wait", &error_of_product<Bug::kNoBarrierAfterWait>},
      {"no barrier at loop end", &error_of_product<Bug::kNoBarrierAtLoopEnd>},
      {"wait one group too late", &error_of_product<Bug::kWaitTooLate>},
      {"shared memory a row short", &error_of_product<Bug::kSharedRowShort>},
      {"row bound missing", &error_of_product<Bug::kRowBoundMissing>},
      {"store bound missing", &error_of_product<Bug::kStoreBoundMissing>},
      {"ldmatrix of the wrong row", &error_of_product<Bug::kLdmatrixWrongRow>},
      {"ldmatrix by half a warp", &error_of_product<Bug::kLdmatrixHalfWarp>},
      {"copy misaligned", &error_of_product<Bug::kCopyMisaligned>},
      {"copy left in flight", &error_of_product<Bug::kCopyLeftInFlight>},
      {"no barrier before read", &error_of_sum<Bug::kNoBarrierBeforeRead>},
      {"divergent barrier", &error_of_sum<Bug::kDivergentBarrier>},
      {"exit before barrier", &error_of_sum<Bug::kEarlyExit>},
      {"divergent shuffle", &error_of_sum<Bug::kDivergentShuffle>},
      {"shuffle outside mask", &error_of_sum<Bug::kShuffleOutsideMask>},
      {"lost atomic", &error_of_sum<Bug::kLostAtomic>},
      {"lost atomic, uncounted", &error_of_sum<Bug::kLostAtomicUncounted>},
      {"shared index off by one", &error_of_sum<Bug::kSharedIndexOff>},
      {"load bound missing", &error_of_sum<Bug::kLoadBoundMissing>},
      {"gather", &error_of_gather<GatherBug::kNone>},
      {"no sync before read", &error_of_gather<GatherBug::kNoSyncBeforeRead>},
      {"no sync before write", &error_of_gather<GatherBug::kNoSyncBeforeWrite>},
      {"sync of another part", &error_of_gather<GatherBug::kSyncOfOtherPart>},
      {"stage a column short", &error_of_gather<GatherBug::kStageShort>},
      {"row of zeros missing", &error_of_gather<GatherBug::kZeroRowMissing>},
      {"select", &error_of_select<SelectBug::kNone>},
      {"no barrier before count", &error_of_select<SelectBug::kNoBarrierBeforeCount>},
      {"no barrier after count", &error_of_select<SelectBug::kNoBarrierAfterCount>},
      {"plain count", &error_of_select<SelectBug::kPlainCount>},
      {"one buffer of sums", &error_of_select<SelectBug::kOneBuffer>},
      {"masked", &error_of_masked<MaskedBug::kNone>},
      {"others' chunks converted", &error_of_masked<MaskedBug::kConvertsOthers>},
      {"no wait before conversion", &error_of_masked<MaskedBug::kNoWaitBefore>},
      {"no barrier after conversion", &error_of_masked<MaskedBug::kNoBarrierAfter>},
      {"sample's word not turned", &error_of_masked<MaskedBug::kSampleNotTurned>},
      {"mask of the step before", &error_of_masked<MaskedBug::kFetchedOneStepAfter>},
      {"masked tile a line short", &error_of_masked<MaskedBug::kTileShort>},
      {"rows", &error_of_rows<RowBug::kNone>},
      {"tail of a row summed", &error_of_rows<RowBug::kTailSummed>},
      {"scale of a row not shared", &error_of_rows<RowBug::kScaleNotShared>},
      {"parts of a row overlap", &error_of_rows<RowBug::kPartsOverlap>},
      {"ragged rows in whole groups", &error_of_rows<RowBug::kWideRagged>},
      {"parts of sums mixed up", &error_of_rows<RowBug::kPartOfRow>},
      {"patches", &error_of_patches<PatchBug::kNone>},
      {"edge of the image missing", &error_of_patches<PatchBug::kEdgeMissing>},
      {"zeros beside the image missing", &error_of_patches<PatchBug::kZerosMissing>},
      {"copies read before they landed", &error_of_patches<PatchBug::kReadBeforeWait>},
      {"too many threads",
       [] {
         VDK_LAUNCH(empty_kernel, vdk::Grid{1}, 1025, 0, nullptr, Empty{});
         return 0.0;
       }},
      {"too much shared memory",
       [] {
         VDK_LAUNCH(empty_kernel, vdk::Grid{1}, 32, (227 << 10) + 1, nullptr, Empty{});
         return 0.0;
       }},
  };
  return mutants;
}

}  // namespace mutants
