// The three products: masked features and weights on their way to shared memory, and what multiplies them.
#pragma once
#include "../cuda/bands.cuh"
#include "../cuda/pipeline.cuh"
#include "../linear_lrt/mma.cuh"
#include "../linear_lrt/stage.cuh"
#include "../random/noise.cuh"
#include "slots.cuh"

namespace vdk {
namespace cuda {

//           rows     columns   reduction  A        B          result
// kLogits   classes  slots     features   weight   masked h   logits, transposed
// kInput    slots    features  classes    g        weight     by slots: their sums under the masks are dh
// kWeight   classes  features  slots      g        masked h   dweight
enum class HeadPass { kLogits, kInput, kWeight };

// Gradients are float, since logits' need its range; half types of the weights or of h are widened, and tf32
// holds them exactly. H: the type of h and the weights.
template <class Math_, class H_, HeadPass kPass_, int kBlockM_>
struct HeadProduct {
  using Math = Math_;
  using E = typename Math::E;
  using H = H_;
  static constexpr HeadPass kPass = kPass_;
  static constexpr int kBlockM = kBlockM_, kThreads = 2 * kBlockM;
  // of a multiprocessor: what its registers are divided by; without tensor cores operands take more
  static constexpr int kBlocks = !std::is_same_v<Math, IeeeMath> ? 512 / kThreads
                                 : kPass == HeadPass::kLogits    ? 2
                                 : kPass == HeadPass::kInput     ? 3
                                                                 : 4;
  static constexpr bool kMasked = kPass != HeadPass::kInput;
  using A = SharedTile<E, kBlockM, kPass == HeadPass::kWeight ? Along::kRows : Along::kDepth>;
  using B = SharedTile<E, kBlockN, kPass == HeadPass::kLogits ? Along::kDepth : Along::kRows>;
};

// One chunk of 16 bytes of a matrix, or what there is of it, as copy_chunk asks for it.
struct LoneChunk {
  int64_t offset;
  int left;

  VDK_DEVICE int64_t chunk(int) const { return offset; }
  VDK_DEVICE bool has(int, int j) const { return j < left; }
};

// A word as a sample reads it: rotated left by a byte for each before it.
VDK_DEVICE uint32_t turned(uint32_t word, int sample) {
  const int by = 8 * (sample % 4);
  return word << by | word >> ((32 - by) & 31);
}

// B passes through a buffer in which every thread finds its own chunks, so no barrier is needed: `fetch`
// starts the copies of h, or the weights, `convert` makes operands of what has landed. A chunk of h becomes
// one for each of the samples that share its random words, which are drawn once for all of them.
template <class P>
struct HeadStage {
  using E = typename P::E;
  using H = typename P::H;
  using Tile = typename P::B;
  static constexpr bool kLogits = P::kPass == HeadPass::kLogits;
  static constexpr int kPerLine = (kLogits ? kBlockK<E> : kBlockN) / kVec<H>;
  static constexpr int kLines = kLogits ? kBlockN : kBlockK<E>;  // of the tile: fewer are copied
  static constexpr int kCount = (kLines * kPerLine + P::kThreads - 1) / P::kThreads;
  static constexpr int kBytes = kLines * kPerLine * 16;

  const HeadProductArgs& args;
  int row0, col0, sample0;  // of h or the weights, for the first step
  int lines, begin;
  NoiseKey key{};

  VDK_DEVICE HeadStage(const HeadProductArgs& args, const TilePlace& tile, int64_t begin)
      : args(args), row0(0), col0(kLogits ? 0 : int(tile.n) * kBlockN), sample0(0), begin(int(begin)) {
    const Slots& slots = args.loss.slots;
    lines = P::kMasked ? kLines >> slots.shift : kLines;
    if constexpr (kLogits) {
      const SlotTile first(slots, int(tile.n));
      row0 = first.row;
      sample0 = first.sample;
    }
    if constexpr (P::kMasked) key = noise_key(args.seed);
  }

  // Chunk i of this thread in a step.
  struct Place {
    int row, col, sample, line, at;  // `at`: in the tile's line
  };
  VDK_DEVICE bool place(int step, int i, Place& p) const {
    const int chunk = int(threadIdx.x) + i * P::kThreads;
    p.line = chunk / kPerLine;
    p.at = chunk % kPerLine * kVec<H>;
    p.row = row0 + p.line;
    p.col = col0 + p.at;
    p.sample = sample0;
    if constexpr (kLogits) p.col += step * kBlockK<E>;
    if constexpr (P::kPass == HeadPass::kInput) p.row += step * kBlockK<E>;
    if constexpr (P::kPass == HeadPass::kWeight) {
      constexpr int kStepsOfTile = kTileSlots / kBlockK<E>;
      const int at = begin + step;
      const SlotTile tile(args.loss.slots, at / kStepsOfTile);
      p.row += tile.row + at % kStepsOfTile * lines;
      p.sample = tile.sample;
    }
    return p.line < lines;
  }

  VDK_DEVICE void fetch(Words4* buffer, int step) const {
    const int rows = P::kMasked ? args.rows : args.loss.classes;
    VDK_UNROLL
    for (int i = 0; i < kCount; ++i) {
      Place p;
      if (!place(step, i, p)) continue;
      const LoneChunk chunk{int64_t(p.row) * args.features + p.col, p.row < rows ? args.features - p.col : 0};
      copy_chunk<H>(buffer + i * P::kThreads + threadIdx.x, P::kMasked ? args.h : args.weight,
                    P::kMasked ? args.whole_h : args.whole_weight, chunk, 0);
    }
  }

  VDK_DEVICE void convert(const Words4* buffer, E* tile, int step) const {
    VDK_UNROLL
    for (int i = 0; i < kCount; ++i) {
      Place p;
      if (!place(step, i, p)) continue;
      const Words4 words = load_shared<Words4>(buffer + i * P::kThreads + threadIdx.x);
      float v[kVec<H>];
      widen_all<H>(words.w, v);
      if constexpr (P::Math::kRoundMean) VDK_UNROLL
      for (int j = 0; j < kVec<H>; ++j) v[j] = as_float(to_tf32(v[j]));
      if constexpr (P::kMasked)
        masked(tile, p, v);
      else
        put(tile, p.line, p.at, v);
    }
  }

 private:
  VDK_DEVICE static void put(E* tile, int line, int at, const float (&v)[kVec<H>]) {
    uint32_t words[kVec<H> * sizeof(E) / 4];
    narrow_all<E>(v, words);
    VDK_UNROLL
    for (int j = 0; j < kVec<H>; j += kVec<E>) {
      Words4 four;
      VDK_UNROLL
      for (int k = 0; k < 4; ++k) four.w[k] = words[j * int(sizeof(E)) / 4 + k];
      store_shared(tile + (Tile::kDeep ? Tile::at(line, at + j) : Tile::at(at + j, line)), four);
    }
  }
  // What is dropped is 0, and NaN where it is not finite, as a product with 0 is.
  VDK_DEVICE void masked(E* tile, const Place& p, const float (&v)[kVec<H>]) const {
    const Slots& slots = args.loss.slots;
    uint32_t bits[kVec<H>];
    const int64_t line = int64_t(p.sample / 4) * args.rows + p.row;
    VDK_UNROLL
    for (int j = 0; j < kVec<H>; j += 4) {
      uint32_t words[4];
      noise_words(key, uint64_t(line * args.groups + (p.col + j) / 4), words);
      VDK_UNROLL
      for (int k = 0; k < 4; ++k) bits[j + k] = turned(words[k], p.sample);
    }
    VDK_UNROLL
    for (int s = 0; s < 4; ++s) {
      if (s >= slots.shared()) continue;
      float under[kVec<H>];
      VDK_UNROLL
      for (int j = 0; j < kVec<H>; ++j) under[j] = turned(bits[j], s) >= args.below ? v[j] : v[j] * 0.0f;
      put(tile, (p.line << slots.shift) + s, p.at, under);
    }
  }
};

// Shared memory of a product's kernel, in bytes: the operands in flight, later the finished tile.
template <class P>
struct HeadLayout {
  static constexpr int kA = P::A::kSize * int(sizeof(typename P::E)),
                       kB = P::B::kSize * int(sizeof(typename P::E));
  static constexpr int kBAt = kPlainSlots * kA, kBufferAt = kBAt + kConvertedSlots * kB;
  static constexpr int kOperands = kBufferAt + kConvertedSlots * HeadStage<P>::kBytes;
  // logits are finished slot by slot: in this pitch neither that nor storing them meets a bank twice
  static constexpr bool kLogits = P::kPass == HeadPass::kLogits;
  static constexpr int kPitch = kLogits ? P::kBlockM + 4 : kResultPitch;
  static constexpr int kResult = (kLogits ? kTileSlots : P::kBlockM) * kPitch * int(sizeof(float));
  static constexpr int kBytes = kOperands > kResult ? kOperands : kResult;
  // what sm_86 gives a block; products that any GPU runs stay within what sm_75 gives
  static_assert(kBytes <= (std::is_same_v<typename P::Math, IeeeMath> ? 64 << 10 : 99 << 10));
};

// The operands of a tile on their way.
template <class P>
struct HeadFeed {
  using E = typename P::E;
  using Layout = HeadLayout<P>;
  using A = Window<typename P::A, P::kThreads>;
  const HeadProductArgs& args;
  unsigned char* shared;
  A a;
  HeadStage<P> b;
  int fetched = 0, converted = 0;  // steps

  VDK_DEVICE E* a_tile(int slot) const { return reinterpret_cast<E*>(shared + slot * Layout::kA); }
  VDK_DEVICE E* b_tile(int slot) const {
    return reinterpret_cast<E*>(shared + Layout::kBAt + slot * Layout::kB);
  }
  VDK_DEVICE Words4* buffer(int slot) const {
    return reinterpret_cast<Words4*>(shared + Layout::kBufferAt + slot * HeadStage<P>::kBytes);
  }

  VDK_DEVICE void fetch(int plain_slot, int staged_slot) const {
    const bool logits = P::kPass == HeadPass::kLogits;
    VDK_UNROLL
    for (int i = 0; i < A::C::kCount; ++i)
      copy_chunk<E>(a_tile(plain_slot) + A::C::in_tile(i), logits ? args.weight : args.loss.logits,
                    !logits || args.whole_weight, a, i);
    b.fetch(buffer(staged_slot), fetched);
  }
  VDK_DEVICE void advance() {
    a.advance();
    ++fetched;
  }
  VDK_DEVICE void convert(int slot) { b.convert(buffer(slot), b_tile(slot), converted++); }
};

// A block's sums of one product, each thread's as linear_lrt has them.
template <class P, class Math = typename P::Math>
struct HeadSums {
  using E = typename P::E;
  using Places = Accumulators<P, Math>;
  Sums sums = {};

  VDK_DEVICE void step(const E* a, const E* b) {
    VDK_UNROLL
    for (int k = 0; k < kBlockK<E>; k += Math::kDepth) {
      FragmentsA x;
      FragmentsB y;
      VDK_UNROLL
      for (int m = 0; m < 2; ++m) load_a<typename P::A>(x[m], a, Places::row0() + m * 16, k);
      VDK_UNROLL
      for (int n = 0; n < 4; n += 2) load_two_b<typename P::B>(y + n, b, Places::col0() + n * 8, k);
      Math::template mean<true>(sums, x, y);
    }
  }
  VDK_DEVICE void store(float* to) const {
    const int lane = threadIdx.x % 32;
    VDK_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int m = i / 8, n = i / 2 % 4, half = i % 2 * 2;
      const int row = Places::row0() + m * 16 + lane / 4 + half * 4;
      const int col = Places::col0() + n * 8 + lane % 4 * 2;
      constexpr int kPitch = HeadLayout<P>::kPitch;
      if constexpr (HeadLayout<P>::kLogits) {
        to[col * kPitch + row] = sums[m][n][half];
        to[(col + 1) * kPitch + row] = sums[m][n][half + 1];
      } else {
        store_shared(to + row * kPitch + col, make_float2(sums[m][n][half], sums[m][n][half + 1]));
      }
    }
  }
};
template <class P>
struct HeadSums<P, IeeeMath> {
  using Places = Accumulators<P, IeeeMath>;
  float sums[8][4] = {};

  VDK_DEVICE void step(const float* a, const float* b) {
    VDK_UNROLL
    for (int k = 0; k < kBlockK<float>; k += 4) {
      float x[8][4], y[4][4];
      Places::template load<typename P::A>(x, a, k, [](int i) { return Places::row(i); });
      Places::template load<typename P::B>(y, b, k, [](int j) { return Places::col(j); });
      Places::add(sums, x, y);
    }
  }
  VDK_DEVICE void store(float* to) const {
    constexpr int kPitch = HeadLayout<P>::kPitch;
    VDK_UNROLL
    for (int i = 0; i < 32; ++i) {
      const int row = Places::row(i / 4), col = Places::col(i % 4);
      to[HeadLayout<P>::kLogits ? col * kPitch + row : row * kPitch + col] = sums[i / 4][i % 4];
    }
  }
};

}  // namespace cuda
}  // namespace vdk
