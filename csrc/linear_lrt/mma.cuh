// The dual product of two tiles in shared memory, mean += A1 B1^T and variance += A2 B2^T, on tensor cores or
// not.
//
// A2 or B2 may be missing: then it is the square of its twin, taken in registers. A square costs a
// multiplication a word of fragment, far less than the shared memory and the barrier that storing it would
// cost.
#pragma once
#include "tile.cuh"

namespace vdk {
namespace cuda {

// Fragments of mma.sync: of A rows row0 to row0 + 15, of B two times eight rows; k0.. of the reduction.
template <class Tile, class V>
VDK_DEVICE void load_a(uint32_t (&a)[4], const V* tile, int row0, int k0) {
  const int lane = threadIdx.x % 32;
  if constexpr (Tile::kDeep) {
    ldmatrix_x4(a, tile + Tile::at(row0 + lane % 16, k0 + lane / 16 * kVec<V>));
  } else if constexpr (sizeof(V) == 2) {
    ldmatrix_x4_trans(a, tile + Tile::at(row0 + lane / 8 % 2 * 8, k0 + lane / 16 * 8 + lane % 8));
  } else {  // ldmatrix transposes 16-bit elements only
    VDK_UNROLL
    for (int i = 0; i < 4; ++i)
      a[i] = as_uint(tile[Tile::at(row0 + lane / 4 + i % 2 * 8, k0 + lane % 4 + i / 2 * 4)]);
  }
}
template <class Tile, class V>
VDK_DEVICE void load_two_b(uint32_t (*b)[2], const V* tile, int row0, int k0) {
  const int lane = threadIdx.x % 32;
  uint32_t r[4];
  if constexpr (Tile::kDeep) {
    ldmatrix_x4(r, tile + Tile::at(row0 + lane / 16 * 8 + lane % 8, k0 + lane / 8 % 2 * kVec<V>));
  } else if constexpr (sizeof(V) == 2) {
    ldmatrix_x4_trans(r, tile + Tile::at(row0 + lane / 16 * 8, k0 + lane / 8 % 2 * 8 + lane % 8));
  } else {
    VDK_UNROLL
    for (int i = 0; i < 4; ++i)
      r[i] = as_uint(tile[Tile::at(row0 + i / 2 * 8 + lane / 4, k0 + lane % 4 + i % 2 * 4)]);
  }
  VDK_UNROLL
  for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = r[i];
}

// Squares of a word of elements, in the variance's type.
template <class E>
VDK_DEVICE uint32_t square(uint32_t word) {
  if constexpr (sizeof(E) == 4) {
    return as_uint(as_float(word) * as_float(word));
  } else if constexpr (std::is_same_v<E, BFloat16>) {
    return multiply_bf16x2(word, word);
  } else {
    const float2 x = unpack<E>(word);
    return pack<BFloat16>(x.x * x.x, x.y * x.y);
  }
}

// A warp's operands and sums: 32 by 32, as two by four fragments of 16 by 8.
using FragmentsA = uint32_t[2][4];
using FragmentsB = uint32_t[4][2];
using Sums = float[2][4][4];

// Half types: the mean in E, the variance in bfloat16, sums in float.
template <class E_>
struct HalfMath {
  using E = E_;
  static constexpr int kDepth = 16;
  static constexpr bool kExactExp = false, kLean = true, kRoundMean = false, kRoundVariance = false;

  template <bool>
  VDK_DEVICE static void mean(Sums& d, FragmentsA& a, FragmentsB& b) {
    VDK_UNROLL
    for (int i = 0; i < 8; ++i) {
      if constexpr (std::is_same_v<E, BFloat16>)
        mma_m16n8k16_bf16(d[i / 4][i % 4], a[i / 4], b[i % 4]);
      else
        mma_m16n8k16_f16(d[i / 4][i % 4], a[i / 4], b[i % 4]);
    }
  }
  template <bool>
  VDK_DEVICE static void variance(Sums& d, FragmentsA& a, FragmentsB& b) {
    HalfMath<BFloat16>::template mean<false>(d, a, b);
  }
};

// float by tf32, which keeps 11 of a float's 24 bits. With x = high + low three products are off by 2^-20 at
// worst, one by 2^-10. The low parts are left to the tensor core to cut; the high ones, and lone operands,
// are rounded, those of B in shared memory already where kRounded says so.
template <int kTerms, bool kRounded>
VDK_DEVICE void tf32_product(Sums& d, FragmentsA& a, FragmentsB& b) {
  FragmentsA a_low;
  FragmentsB b_low;
  const auto split = [](uint32_t& x, uint32_t& low) {
    const float whole = as_float(x);
    x = to_tf32(whole);
    if constexpr (kTerms == 3) low = as_uint(whole - as_float(x));
  };
  VDK_UNROLL
  for (int i = 0; i < 8; ++i) {
    split(a[i / 4][i % 4], a_low[i / 4][i % 4]);
    if constexpr (!kRounded) split(b[i / 2][i % 2], b_low[i / 2][i % 2]);
  }
  const auto multiply = [&](FragmentsA& x, FragmentsB& y) {
    VDK_UNROLL
    for (int i = 0; i < 8; ++i) mma_m16n8k8_tf32(d[i / 4][i % 4], x[i / 4], y[i % 4]);
  };
  if constexpr (kTerms == 3) {  // the small ones first
    multiply(a_low, b);
    multiply(a, b_low);
  }
  multiply(a, b);
}
template <int kMeanTerms, int kVarianceTerms>
struct Tf32Math {
  using E = float;
  static constexpr int kDepth = 8;
  static constexpr bool kExactExp = kVarianceTerms == 3, kLean = kMeanTerms == 1;

  // whether operands of B that pass through registers on their way to shared memory are rounded there
  static constexpr bool kRoundMean = kMeanTerms == 1, kRoundVariance = kVarianceTerms == 1;

  template <bool kStored>
  VDK_DEVICE static void mean(Sums& d, FragmentsA& a, FragmentsB& b) {
    tf32_product<kMeanTerms, kStored && kRoundMean>(d, a, b);
  }
  template <bool kStored>
  VDK_DEVICE static void variance(Sums& d, FragmentsA& a, FragmentsB& b) {
    tf32_product<kVarianceTerms, kStored && kRoundVariance>(d, a, b);
  }
};

// float by FFMA.
struct IeeeMath {
  using E = float;
  static constexpr bool kExactExp = true, kLean = false, kRoundMean = false, kRoundVariance = false;
};

template <class P, class Math>
struct Accumulators {
  using E = typename P::E;
  Sums mean = {}, variance = {};

  VDK_DEVICE static int row0() { return int(threadIdx.x) / 32 / 2 * 32; }
  VDK_DEVICE static int col0() { return int(threadIdx.x) / 32 % 2 * 32; }

  VDK_DEVICE void step(const OperandsOf<P>& tile) {
    VDK_UNROLL
    for (int k = 0; k < kBlockK<E>; k += Math::kDepth) {
      FragmentsA a, a2;
      FragmentsB b, b2;
      VDK_UNROLL
      for (int m = 0; m < 2; ++m) load_a<typename P::A>(a[m], tile.a, row0() + m * 16, k);
      VDK_UNROLL
      for (int n = 0; n < 4; n += 2) load_two_b<typename P::B>(b + n, tile.b, col0() + n * 8, k);
      // squares before the mean's product, which may split its operands in place
      if constexpr (!P::kPairA) VDK_UNROLL
      for (int i = 0; i < 8; ++i) a2[i / 4][i % 4] = square<E>(a[i / 4][i % 4]);
      if constexpr (!P::kPairB) VDK_UNROLL
      for (int i = 0; i < 8; ++i) b2[i / 2][i % 2] = square<E>(b[i / 2][i % 2]);
      Math::template mean<P::kWeightsB>(mean, a, b);
      if constexpr (P::kPairA) VDK_UNROLL
      for (int m = 0; m < 2; ++m) load_a<typename P::A>(a2[m], tile.a2, row0() + m * 16, k);
      if constexpr (P::kPairB) VDK_UNROLL
      for (int n = 0; n < 4; n += 2) load_two_b<typename P::B>(b2 + n, tile.b2, col0() + n * 8, k);
      Math::template variance<P::kWeightsB>(variance, a2, b2);
    }
  }

  VDK_DEVICE void store(float* means, float* variances) const {
    const int lane = threadIdx.x % 32;
    VDK_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int m = i / 8, n = i / 2 % 4, half = i % 2 * 2;
      const int row = row0() + m * 16 + lane / 4 + half * 4, col = col0() + n * 8 + lane % 4 * 2;
      P::Result::store_two(means, row, col, mean[m][n][half], mean[m][n][half + 1]);
      P::Result::store_two(variances, row, col, variance[m][n][half], variance[m][n][half + 1]);
    }
  }
};

// Without tensor cores a thread has 8 rows by 4 columns, spread so that a warp's loads from shared memory are
// broadcasts of A and meet every bank of B once.
template <class P>
struct Accumulators<P, IeeeMath> {
  static constexpr int kThreadsM = P::kBlockM / 8;
  float mean[8][4] = {}, variance[8][4] = {};

  // Where rows are contiguous a load brings four of them; where the depth is, four steps of one.
  VDK_DEVICE static int row(int i) {
    const int y = threadIdx.x / 16;
    return P::A::kDeep ? y + i * kThreadsM : i / 4 * (kThreadsM * 4) + y * 4 + i % 4;
  }
  VDK_DEVICE static int col(int j) {
    const int x = threadIdx.x % 16;
    return P::B::kDeep ? x + j * 16 : x * 4 + j;
  }
  template <class Tile, int kCount, class Place>
  VDK_DEVICE static void load(float (&v)[kCount][4], const float* tile, int k, Place place) {
    VDK_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if constexpr (Tile::kDeep) {
        widen_all<float>(load_shared<Words4>(tile + Tile::at(place(i), k)).w, v[i]);
      } else if (i % 4 == 0) {
        VDK_UNROLL
        for (int step = 0; step < 4; ++step) {
          const Words4 words = load_shared<Words4>(tile + Tile::at(place(i), k + step));
          VDK_UNROLL
          for (int j = 0; j < 4; ++j) v[i + j][step] = as_float(words.w[j]);
        }
      }
    }
  }
  template <int kCount>
  VDK_DEVICE static void square_all(float (&v)[kCount][4]) {
    VDK_UNROLL
    for (int i = 0; i < kCount * 4; ++i) v[i / 4][i % 4] *= v[i / 4][i % 4];
  }
  VDK_DEVICE static void add(float (&d)[8][4], const float (&a)[8][4], const float (&b)[4][4]) {
    VDK_UNROLL
    for (int step = 0; step < 4; ++step) VDK_UNROLL
    for (int i = 0; i < 32; ++i) d[i / 4][i % 4] += a[i / 4][step] * b[i % 4][step];
  }

  VDK_DEVICE void step(const OperandsOf<P>& tile) {
    const auto rows = [](int i) { return row(i); };
    const auto cols = [](int j) { return col(j); };
    VDK_UNROLL
    for (int k = 0; k < kBlockK<float>; k += 4) {
      float a[8][4], b[4][4];
      load<typename P::A>(a, tile.a, k, rows);
      load<typename P::B>(b, tile.b, k, cols);
      add(mean, a, b);
      if constexpr (P::kPairA)
        load<typename P::A>(a, tile.a2, k, rows);
      else
        square_all(a);
      if constexpr (P::kPairB)
        load<typename P::B>(b, tile.b2, k, cols);
      else
        square_all(b);
      add(variance, a, b);
    }
  }

  VDK_DEVICE void store(float* means, float* variances) const {
    VDK_UNROLL
    for (int i = 0; i < 32; ++i) {
      const int at = P::Result::at(row(i / 4), col(i % 4));
      means[at] = mean[i / 4][i % 4];
      variances[at] = variance[i / 4][i % 4];
    }
  }
};

}  // namespace cuda
}  // namespace vdk
