// One row of inputs times a packed matrix whose form for that (`pairs`) is there: inputs come from registers.
//
// Gathering bounds a single row: two loads a cycle bring two inputs. Here inputs stand in chunks of 64, their
// four bytes in planes, and two chunks' plane is a table of 128 bytes in which one instruction (vpermi2b)
// finds the bytes of 64 inputs; interleaving the planes makes floats of them. Of 64 rows each takes its next
// nonzero wherever the table holds its input, twice before the table changes: rows need not keep step.
#pragma once
#include "../common/isa.h"
#include "../common/simd.h"
#include "pack.h"

namespace vdk {
namespace VDK_ISA {

// Floats of memory for the planes of `in` inputs: a table may reach a chunk beyond the last.
VDK_INLINE int64_t planes_floats(int64_t in) {
  return (in + 2 * kLookupRows - 1) / kLookupRows * kLookupRows;
}

#if defined(__AVX512F__)
VDK_INLINE bool takes_lookups(const Pack& k) { return k.h.pairs > 0 && has_byte_lookup(); }

VDK_INLINE void to_planes(const float* x, int64_t in, char* planes) {
  for (int64_t c = 0; c < in; c += kLookupRows, planes += 4 * kLookupRows)
    for (int64_t v = 0; v < kLookupRows; v += 16) {
      const __m512i bits = in > c + v ? (__m512i)load_first(x + c + v, in - c - v) : __m512i{};
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(planes + b * kLookupRows + v),
                         _mm512_cvtepi32_epi8(_mm512_srli_epi32(bits, unsigned(8 * b))));
    }
  __builtin_memset(planes, 0, 4 * kLookupRows);
}

// Not the instruction set's own flag: most of its CPUs have these instructions, but not all.
#define VDK_BYTE_LOOKUP __attribute__((target("avx512vbmi")))

struct Table {
  __m512i low[4], high[4];  // planes of two chunks
};
// A step of 64 rows: what their indices find, times their weights. Rows without a nonzero in it find zeros.
VDK_BYTE_LOOKUP VDK_INLINE void add_step(const Table& t, const uint8_t* index, const float* w,
                                         VecF (&sum)[4]) {
  const __m512i at = _mm512_loadu_si512(index);
  const __mmask64 real = _mm512_movepi8_mask(at);
  __m512i bytes[4];
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) bytes[b] = _mm512_maskz_permutex2var_epi8(real, t.low[b], at, t.high[b]);
  const __m512i low[2] = {_mm512_unpacklo_epi8(bytes[0], bytes[1]), _mm512_unpackhi_epi8(bytes[0], bytes[1])};
  const __m512i high[2] = {_mm512_unpacklo_epi8(bytes[2], bytes[3]),
                           _mm512_unpackhi_epi8(bytes[2], bytes[3])};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    sum[2 * i] += (VecF)_mm512_unpacklo_epi16(low[i], high[i]) * load(w + 32 * i);
    sum[2 * i + 1] += (VecF)_mm512_unpackhi_epi16(low[i], high[i]) * load(w + 32 * i + 16);
  }
}

// Groups [begin, end) of 64 rows.
VDK_BYTE_LOOKUP __attribute__((noinline)) inline void multiply_lookups(const Pack& k, const char* planes,
                                                                       bool relu, int64_t begin, int64_t end,
                                                                       float* y) {
  constexpr int64_t kPair = 2 * kLookupRows, kAhead = 4;
  for (int64_t g = begin; g < end; ++g) {
    VecF sum[4] = {};
    for (int64_t pair = k.pair_start[g]; pair < k.pair_start[g + 1]; ++pair) {
      const char* const chunk = planes + int64_t(k.chunk[pair]) * 4 * kLookupRows;
      Table t;
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b) {
        t.low[b] = _mm512_loadu_si512(chunk + b * kLookupRows);
        t.high[b] = _mm512_loadu_si512(chunk + (4 + b) * kLookupRows);
      }
      const uint8_t* const index = k.lookup_index + pair * kPair;
      const float* const w = k.lookup_values + pair * kPair;
#pragma GCC unroll 8
      for (int64_t line = 0; line < kPair; line += 16) __builtin_prefetch(w + kAhead * kPair + line);
      __builtin_prefetch(index + kAhead * kPair);
      __builtin_prefetch(index + kAhead * kPair + kLookupRows);
      add_step(t, index, w, sum);
      add_step(t, index + kLookupRows, w + kLookupRows, sum);
    }
    float sums[kLookupRows];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // whole vectors: a branch a row would be mispredicted every other time
      const VecF v = sum[i] + load(k.lookup_bias + g * kLookupRows + 16 * i);
      store(sums + 16 * i, relu ? (v < 0 ? VecF{} : v) : v);
    }
    const uint32_t* const rows = k.lookup_rows + g * kLookupRows;
    for (int r = 0; r < kLookupRows && rows[r] != kNoLookup; ++r) y[rows[r]] = sums[r];
  }
}
#undef VDK_BYTE_LOOKUP
#else
VDK_INLINE bool takes_lookups(const Pack&) { return false; }
VDK_INLINE void to_planes(const float*, int64_t, char*) {}
VDK_INLINE void multiply_lookups(const Pack&, const char*, bool, int64_t, int64_t, float*) {}
#endif

}  // namespace VDK_ISA
}  // namespace vdk
