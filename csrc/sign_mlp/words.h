// Blocks of 32 sums in sixteen bits, whose signs fill a word: sixteen bits decide all signs but those of the
// few sums next to 0.
#pragma once
#include "../common/bits.h"
#if defined(__SSE2__) && !defined(__AVX2__)
#include <emmintrin.h>
#endif

namespace vdk {
namespace VDK_ISA {

typedef int16_t VecS __attribute__((vector_size(VDK_VECTOR_BYTES)));
typedef uint16_t VecUS __attribute__((vector_size(VDK_VECTOR_BYTES)));

constexpr int kBlock = 32;
constexpr int64_t kRows = 1024;                        // of a task, whose words stay in the first cache
constexpr int kParts = kBlock * 2 / VDK_VECTOR_BYTES;  // vectors of a block
constexpr int kWide = 2 * kParts;                      // vectors of a block in 32 bits
constexpr float kMost = 32767;

// Sums of neighbouring products.
VDK_INLINE VecI multiply_pairs(VecS a, VecS b) {
#if defined(__AVX512F__)
  return (VecI)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (VecI)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (VecI)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  VecI r;
  for (int i = 0; i < kLanes<float>; ++i) r[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return r;
#endif
}

// Saturated; each 16 bytes of the result are 8 of a, then 8 of b: `place` below undoes that.
VDK_INLINE VecS pack(VecI a, VecI b) {
#if defined(__AVX512F__)
  return (VecS)_mm512_packs_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (VecS)_mm256_packs_epi32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (VecS)_mm_packs_epi32((__m128i)a, (__m128i)b);
#else
  VecS r;
  for (int i = 0; i < 2 * kLanes<float>; ++i) {
    const int32_t v = i < kLanes<float> ? a[i] : b[i - kLanes<float>];
    r[i] = int16_t(v > 32767 ? 32767 : v < -32768 ? -32768 : v);
  }
  return r;
#endif
}

VDK_INLINE VecS add_saturated(VecS a, VecS b) {
#if defined(__AVX512F__)
  return (VecS)_mm512_adds_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (VecS)_mm256_adds_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (VecS)_mm_adds_epi16((__m128i)a, (__m128i)b);
#else
  const VecS sum = (VecS)((VecUS)a + (VecUS)b);
  const VecS over = ((a ^ sum) & (b ^ sum)) >> 15;
  return (over & ((a >> 15) ^ 32767)) | (~over & sum);
#endif
}

VDK_INLINE VecS subtract_saturated(VecS a, VecS b) {
#if defined(__AVX512F__)
  return (VecS)_mm512_subs_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (VecS)_mm256_subs_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (VecS)_mm_subs_epi16((__m128i)a, (__m128i)b);
#else
  const VecS sum = (VecS)((VecUS)a - (VecUS)b);
  const VecS over = ((a ^ b) & (a ^ sum)) >> 15;
  return (over & ((a >> 15) ^ 32767)) | (~over & sum);
#endif
}

// Bit i: whether sum i of a block is negative (a comparison holds).
VDK_INLINE uint32_t negative(const VecS (&v)[kParts]) {
#if defined(__AVX512F__)
  return _mm512_movepi16_mask((__m512i)v[0]);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_epi8(_mm256_packs_epi16((__m256i)v[0], (__m256i)v[1])));
#elif defined(__SSE2__)
  const int low = _mm_movemask_epi8(_mm_packs_epi16((__m128i)v[0], (__m128i)v[1]));
  const int high = _mm_movemask_epi8(_mm_packs_epi16((__m128i)v[2], (__m128i)v[3]));
  return uint32_t(low) | uint32_t(high) << 16;
#else
  uint32_t bits = 0;
  for (int i = 0; i < kBlock; ++i) bits |= uint32_t(v[i / (kBlock / kParts)][i % (kBlock / kParts)] < 0) << i;
  return bits;
#endif
}

// Where sum i of a block stands in memory so that `negative` finds it at bit i.
VDK_INLINE int place(int i) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return (i & ~24) | (i & 8) << 1 | (i & 16) >> 1;
#else
  return i;
#endif
}
// And where in 32 bits, so that `pack` brings it there.
VDK_INLINE int wide_place(int i) {
  constexpr int kPair = VDK_VECTOR_BYTES / 2;  // sums of a vector
  const int at = place(i), in = at % kPair;
  return at - in + (in & 4 ? kPair / 2 : 0) + in / 8 * 4 + in % 4;
}

// Whether a sum is in [0, most]: of sums to which a bound of their errors was added, those that could be
// wrong.
VDK_INLINE VecS within(VecS v, int16_t most) { return (VecS)((VecUS)v <= VecUS{} + uint16_t(most)); }

// Bit i: whether sum i of a block is negative; is in [0, most], or more for a most beyond 126.
struct Signs {
  uint32_t negative, within;
};
VDK_INLINE Signs signs_of(const VecS (&v)[kParts], int most) {
#if defined(__AVX512F__)
  return {_mm512_movepi16_mask((__m512i)v[0]),
          _mm512_cmple_epu16_mask((__m512i)v[0], _mm512_set1_epi16(int16_t(most)))};
#elif defined(__AVX2__)
  const __m256i bytes = _mm256_packs_epi16((__m256i)v[0], (__m256i)v[1]),
                low = _mm256_min_epu8(bytes, _mm256_set1_epi8(char(most < 127 ? most : 127)));
  return {uint32_t(_mm256_movemask_epi8(bytes)),
          uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, low)))};
#else
  VecS mask[kParts];
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) mask[i] = within(v[i], int16_t(most));
  return {negative(v), negative(mask)};
#endif
}

VDK_INLINE void set_bit(uint32_t* word, int bit, bool on) {
  *word = (*word & ~(1u << bit)) | uint32_t(on) << bit;
}

VDK_INLINE void pack_block(const VecI (&wide)[kWide], VecS (&sums)[kParts]) {
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) sums[i] = pack(wide[2 * i], wide[2 * i + 1]);
}

VDK_INLINE VecI load_wide(const int32_t* p) {
  VecI v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
VDK_INLINE VecS load_sums(const int16_t* p) {
  VecS v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// To an integer, within kRounding; what is beyond kMost, or NaN, to kMost.
constexpr float kRounding = 0.51f;
VDK_INLINE int16_t rounded(float x) {
  const float below = x < kMost ? x : kMost, in = below > -kMost ? below : -kMost;
  return int16_t(int32_t(in + 32768.5f) - 32768);
}

VDK_INLINE float magnitude(float x) { return x < 0 ? -x : x; }

// Sums of a row that could be wrong, a bit an output.
struct Unsure {
  int64_t row;
  uint32_t outputs;
};

// Those of `count` rows from `row` on; outputs [kRows], overwritten beyond `count`.
VDK_INLINE Unsure* list_unsure(uint32_t* outputs, int64_t row, int64_t count, Unsure* to) {
  constexpr int64_t kVector = kLanes<float>;
  for (int64_t r = count; r % kVector; ++r) outputs[r] = 0;
  for (int64_t r = 0; r < count; r += kVector) {
    VecI some;
    __builtin_memcpy(&some, outputs + r, sizeof some);
    for (uint64_t rows = lane_bits(some != 0); rows; rows &= rows - 1) {
      const int64_t at = r + __builtin_ctzll(rows);
      *to++ = {row + at, outputs[at]};
    }
  }
  return to;
}

}  // namespace VDK_ISA
}  // namespace vdk
