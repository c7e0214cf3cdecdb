// Bits counted in vectors of 64-bit words, by an instruction, a table in a register, or sums of ever wider
// fields.
#pragma once
#include "../common/simd.h"

namespace vdk {
namespace VDK_ISA {

typedef uint64_t VecQ __attribute__((vector_size(VDK_VECTOR_BYTES)));
constexpr int kLanesQ = VDK_VECTOR_BYTES / 8;

VDK_INLINE VecQ load_words(const uint64_t* p) {
  VecQ v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// Counts a byte each, to be widened before one overflows.
struct CountBytes {
  static constexpr int kMost = 31;  // words whose counts of at most 8 fit a byte

  static VDK_INLINE VecQ count(VecQ x) {
#if defined(__AVX512F__)
    const __m512i low = _mm512_set1_epi8(15),
                  table =
                      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i a = _mm512_and_si512((__m512i)x, low),
                  b = _mm512_and_si512(_mm512_srli_epi16((__m512i)x, 4), low);
    return (VecQ)_mm512_add_epi8(_mm512_shuffle_epi8(table, a), _mm512_shuffle_epi8(table, b));
#elif defined(__AVX2__)
    const __m256i low = _mm256_set1_epi8(15),
                  table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2,
                                           2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i a = _mm256_and_si256((__m256i)x, low),
                  b = _mm256_and_si256(_mm256_srli_epi16((__m256i)x, 4), low);
    return (VecQ)_mm256_add_epi8(_mm256_shuffle_epi8(table, a), _mm256_shuffle_epi8(table, b));
#else
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    return (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
#endif
  }

  static VDK_INLINE VecQ widen(VecQ bytes) {
#if defined(__AVX512F__)
    return (VecQ)_mm512_sad_epu8((__m512i)bytes, _mm512_setzero_si512());
#elif defined(__AVX2__)
    return (VecQ)_mm256_sad_epu8((__m256i)bytes, _mm256_setzero_si256());
#else
    bytes = (bytes & 0x00FF00FF00FF00FFu) + (bytes >> 8 & 0x00FF00FF00FF00FFu);
    bytes += bytes >> 16;
    return (bytes + (bytes >> 32)) & 0xFFFFu;
#endif
  }
};

// Spelled out so that the rest of the file is not compiled for CPUs that have the instruction; clang refuses
// it without that and counts bytes.
#if defined(__AVX512F__) && !defined(__clang__)
#define VDK_COUNT_WORDS
struct CountWords {
  static constexpr int kMost = 1 << 30;

  static VDK_INLINE VecQ count(VecQ x) {
    VecQ r;
    asm("vpopcntq %1, %0" : "=v"(r) : "v"(x));
    return r;
  }
  static VDK_INLINE VecQ widen(VecQ counts) { return counts; }
};
#endif

}  // namespace VDK_ISA
}  // namespace vdk
