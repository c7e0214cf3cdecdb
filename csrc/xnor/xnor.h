// Products of signs on packed bits: bit 1 stands for -1, and a product of n signs is n - 2 popcount(a ^ b).
//
// Activations are [pixels, words]: channel c is bit c % 64 of word c / 64, bits beyond the channels are 0.
// Weights are [outputs / 8, taps, words, 8]: the words of eight outputs beside each other.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"

namespace vdk {

constexpr int kXnorOutputs = 8;  // outputs whose words lie beside each other

struct XnorPackArgs {
  const float* x;          // [outer, channels, inner]
  const float* threshold;  // [channels], or null: 0
  const uint64_t* flip;    // [words], or null: none
  int64_t outer, channels, inner;
  uint64_t* bits;  // [outer * inner, words]: (x < threshold) ^ flip
};

struct XnorArgs {
  const uint64_t* a;  // [batch, height, width, words]
  const uint64_t* w;
  int64_t batch, height, width, channels, outputs;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t out_h, out_w;
  bool popcount;  // the instruction, where there is one
  // With z the sum of signs over the taps inside the image: alpha z + bias, rounded after each of the two;
  const float* alpha;  // [outputs]
  const float* bias;   // [outputs] or null
  float* y;            // [batch, outputs, out_h, out_w], or pixels first
  bool pixels_first;
  // or, if y is null, its sign after the next layer's norm: (z < threshold) ^ flip
  const int32_t* threshold;  // [outputs]
  const uint64_t* flip;      // [words of outputs]
  uint64_t* bits;            // [batch, out_h, out_w, words of outputs]

  int64_t words() const { return (channels + 63) / 64; }
  int64_t out_words() const { return (outputs + 63) / 64; }
};

VDK_DECLARE_KERNEL(void xnor_pack(const XnorPackArgs& args, const Parallel& parallel);
                   void xnor_conv2d(const XnorArgs& args, const Parallel& parallel);)

// Whether this CPU counts bits in vectors (AVX512_VPOPCNTDQ) and may: tests forbid it.
bool has_popcount();
void allow_popcount(bool allowed);

}  // namespace vdk
