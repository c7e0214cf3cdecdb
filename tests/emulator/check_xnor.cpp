#include "check.h"
#include "cuda/simt.cuh"
#include "xnor/cuda.h"

namespace {

bool bit(const std::vector<uint64_t>& words, int64_t row, int64_t per_row, int64_t i) {
  return words[size_t(row * per_row + i / 64)] >> (i % 64) & 1;
}

std::vector<uint64_t> noise(size_t n, uint64_t state) {
  std::vector<uint64_t> words(n);
  for (uint64_t& w : words) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    w = state ^ state >> 29;
  }
  return words;
}

template <class E>
void check_pack() {
  const int64_t shapes[][3] = {{5, 130, 1}, {4, 256, 1}, {3, 70, 20}, {2, 40, 7}, {1, 200, 130}};
  for (const auto& shape : shapes) {
    const int64_t outer = shape[0], channels = shape[1], inner = shape[2], words = (channels + 63) / 64;
    std::vector<E> x(size_t(outer * channels * inner));
    for (size_t i = 0; i < x.size(); ++i) x[i] = vdk::round_to<E>(float(i * 7 % 11) - 5);
    std::vector<float> threshold(size_t(channels), 0.5f);
    const std::vector<uint64_t> flip = noise(size_t(words), 3);
    std::vector<uint64_t> bits(size_t(outer * inner * words));
    vdk::cuda::xnor_pack(vdk::cuda::XnorPackArgs<E>{x.data(), threshold.data(), flip.data(), outer, channels,
                                                    inner, bits.data()},
                         nullptr);
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < inner; ++i) {
          const bool below = vdk::to_float(x[size_t((o * channels + c) * inner + i)]) < 0.5f;
          emu::expect_close(bit(bits, o * inner + i, words, c), below != bit(flip, 0, words, c), 0, "bit");
        }
  }
}

struct Signs {
  vdk::XnorArgs a{};
  std::vector<uint64_t> bits, weight;

  Signs(int64_t batch, int64_t size, int64_t channels, int64_t outputs, int64_t kernel, int64_t pad) {
    a.batch = batch, a.height = a.width = size, a.channels = channels, a.outputs = outputs;
    a.kernel_h = a.kernel_w = kernel, a.pad_h = a.pad_w = pad;
    a.stride_h = a.stride_w = a.dilation_h = a.dilation_w = 1;
    a.out_h = a.out_w = size + 2 * pad - kernel + 1;
    const uint64_t mask = channels % 64 ? (uint64_t(1) << channels % 64) - 1 : ~uint64_t(0);
    bits = noise(size_t(batch * size * size * a.words()), 1);
    weight = noise(size_t((outputs + 7) / 8 * kernel * kernel * a.words() * 8 + 1), 2);
    for (size_t i = 0; i < bits.size(); ++i)
      if (int64_t(i) % a.words() == a.words() - 1) bits[i] &= mask;
    for (size_t i = 0; i < weight.size(); ++i)
      if (int64_t(i / 8) % a.words() == a.words() - 1) weight[i] &= mask;
    a.a = bits.data();
    const bool aligned = reinterpret_cast<uintptr_t>(weight.data()) % 16 == 0;
    a.w = weight.data() + !aligned;  // vectors of words lie at multiples of 8 bytes alone
  }

  int64_t sum(int64_t n, int64_t h, int64_t w, int64_t o) const {
    int64_t z = 0;
    for (int64_t tap = 0; tap < a.kernel_h * a.kernel_w; ++tap) {
      const int64_t at_h = h - a.pad_h + tap / a.kernel_w, at_w = w - a.pad_w + tap % a.kernel_w;
      if (at_h < 0 || at_h >= a.height || at_w < 0 || at_w >= a.width) continue;
      const uint64_t* const pixel = a.a + ((n * a.height + at_h) * a.width + at_w) * a.words();
      const uint64_t* const of_tap = a.w + (o / 8 * a.kernel_h * a.kernel_w + tap) * a.words() * 8 + o % 8;
      z += a.channels;
      for (int64_t k = 0; k < a.words(); ++k) z -= 2 * __builtin_popcountll(pixel[k] ^ of_tap[k * 8]);
    }
    return z;
  }
};

enum class Result { kPlanes, kPixelsFirst, kBits };

void check_product(int capability, int multiprocessors, Signs signs) {
  vdk::XnorArgs& a = signs.a;
  const int64_t plane = a.out_h * a.out_w, pixels = a.batch * plane;
  std::vector<float> alpha(size_t(a.outputs), 0.5f), bias(size_t(a.outputs), 3),
      y(size_t(pixels * a.outputs));
  std::vector<int32_t> threshold(size_t(a.outputs), 1);
  const std::vector<uint64_t> flip = noise(size_t(a.out_words()), 5);
  std::vector<uint64_t> packed(size_t(pixels * a.out_words()));
  std::vector<int32_t> workspace(vdk::cuda::xnor_workspace(a) / 4);
  for (const Result result : {Result::kPlanes, Result::kPixelsFirst, Result::kBits}) {
    a.alpha = alpha.data(), a.bias = bias.data(), a.threshold = threshold.data(), a.flip = flip.data();
    a.y = result == Result::kBits ? nullptr : y.data();
    a.pixels_first = result == Result::kPixelsFirst;
    a.bits = packed.data();
    vdk::cuda::xnor_conv2d(a, capability, multiprocessors, workspace.data(), nullptr);
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t o = 0; o < a.outputs; ++o) {
        const int64_t z = signs.sum(p / plane, p % plane / a.out_w, p % a.out_w, o);
        if (result == Result::kBits)
          emu::expect_close(bit(packed, p, a.out_words(), o), (z < 1) != bit(flip, 0, a.out_words(), o), 0,
                            "bit");
        else
          emu::expect_close(
              y[size_t(a.pixels_first ? p * a.outputs + o : (p / plane * a.outputs + o) * plane + p % plane)],
              0.5 * double(z) + 3, 0, "y");
      }
  }
}

void check_both(int capability, int multiprocessors) {
  check_product(capability, multiprocessors, Signs(2, 6, 70, 67, 3, 1));
  check_product(capability, multiprocessors, Signs(130, 1, 2200, 9, 1, 0));
}

}  // namespace

VDK_CHECK("xnor_pack float") { check_pack<float>(); }
VDK_CHECK("xnor_pack float16") { check_pack<vdk::Float16>(); }
VDK_CHECK("xnor_pack bfloat16") { check_pack<vdk::BFloat16>(); }
VDK_CHECK("xnor_product popc") { check_both(90, 132); }
VDK_CHECK("xnor_product mma 64") { check_both(80, 10'000); }
VDK_CHECK("xnor_product mma 128") { check_both(89, 1); }
