#include "digits.cuh"

namespace vdk {
namespace cuda {
namespace {

// Threads that share a row, and the groups of four numbers that each holds in registers.
struct Small {
  static constexpr int kThreads = 32, kWords = 8;
};
struct Warp {
  static constexpr int kThreads = 32, kWords = 32;
};
struct Block {
  static constexpr int kThreads = 256, kWords = 32;
};
struct Large {
  static constexpr int kThreads = 1024, kWords = 32;
};
template <class Size>
constexpr int64_t most_of(int64_t size) {  // elements, of `size` bytes
  return int64_t(Size::kThreads) * Size::kWords / (size == 8 ? 2 : 1);
}

static_assert(sizeof(MaskNumbers) <= kMaskGradWorkspace, "all that a gradient needs");
constexpr int64_t round16(int64_t bytes) { return ceil_div(bytes, 16) * 16; }

// What is selected from: rows, or the one row of units' norms; and where memory for that begins.
struct Selection {
  bool units;
  int64_t rows, cols, size, spans;
  int64_t bound = sizeof(MaskNumbers), norms = bound + 16, states, counts, bytes;

  Selection(int64_t of_rows, int64_t of_cols, Granularity granularity, int64_t of_size)
      : units(granularity != Granularity::kWeight),
        rows(units ? 1 : of_rows),
        cols(units ? of_rows : of_cols),
        size(units && of_size < 4 ? 4 : of_size),
        spans(cols > most_of<Large>(size) ? ceil_div(cols, kSpan) : 0),
        states(norms + (units ? round16(cols * size) : 0)),
        counts(states + (spans ? rows * int64_t(sizeof(MaskState)) : 0)),
        bytes(counts + rows * spans * kBins * int64_t(sizeof(int32_t))) {}
};

template <class E>
struct Launch {
  using C = ComputeOf<E>;
  const WeightMaskArgs<E>& of;
  void* stream;
  Selection select;

  Launch(const WeightMaskArgs<E>& args, void* to)
      : of(args), stream(to), select(args.rows, args.cols, args.granularity, sizeof(E)) {}

  template <class T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(of.workspace) + offset);
  }

  bool wide() const {
    const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % alignof(Four<E>) == 0; };
    return of.cols % 4 == 0 && aligned(of.w) && aligned(of.given) && aligned(of.out);
  }

  MaskKernelArgs<E> arguments() const {
    return {of.w,    of.given,           of.out,       of.rows, of.cols, wide(),
            of.seed, at<MaskNumbers>(0), of.threshold, nullptr, nullptr};
  }

  void numbers() const {
    VDK_LAUNCH(mask_numbers, Grid{1}, 32, 0, stream,
               MaskNumbersArgs{of.gamma, of.alpha, select.cols, at<MaskNumbers>(0)});
  }

  void apply(bool from_norms) const {
    MaskKernelArgs<E> args = arguments();
    if (from_norms) {
      args.norms = at<C>(select.norms);
      args.bound = at<C>(select.bound);
    }
    const int64_t units = of.rows * ceil_div(groups_of(of.cols), 32 * kMaskGroups);
    const Grid grid{ceil_div(units, kMaskThreads / 32)};
    if (of.granularity == Granularity::kUnit)
      VDK_LAUNCH((mask_apply<E, true>), grid, kMaskThreads, 0, stream, args);
    else
      VDK_LAUNCH((mask_apply<E, false>), grid, kMaskThreads, 0, stream, args);
  }

  template <class T, class Size, bool kMask>
  void in_registers(const MaskKernelArgs<T>& args) const {
    constexpr int kGroups = Size::kWords / (sizeof(T) == 8 ? 2 : 1) / 4;
    const int block = Size::kThreads < kMaskThreads ? kMaskThreads : Size::kThreads;
    VDK_LAUNCH((mask_select<T, Size::kThreads, kGroups, kMask>),
               Grid{ceil_div(args.rows, block / Size::kThreads)}, block, 0, stream, args);
  }

  template <class T>
  void by_digits(const MaskKernelArgs<T>& args) const {
    MaskDigitArgs<T> digits{args.w,
                            args.rows,
                            args.cols,
                            select.spans,
                            args.wide,
                            kMagnitudeBits<T>,
                            0,
                            args.numbers,
                            at<MaskState>(select.states),
                            at<int32_t>(select.counts),
                            args.threshold};
    while (digits.shift > 0) {
      digits.width = digits.shift < 8 ? digits.shift : 8;
      digits.shift -= digits.width;
      VDK_LAUNCH(mask_count<T>, Grid{args.rows * select.spans}, kMaskThreads, 0, stream, digits);
      VDK_LAUNCH(mask_digit<T>, Grid{args.rows}, kBins, 0, stream, digits);
    }
  }

  // Thresholds, and with kMask rows of up to most_of<Large> without what is dropped.
  template <bool kMask, class T>
  void thresholds(const MaskKernelArgs<T>& args) const {
    if (select.spans) return by_digits(args);
    if (args.cols <= most_of<Small>(sizeof(T))) return in_registers<T, Small, kMask>(args);
    if (args.cols <= most_of<Warp>(sizeof(T))) return in_registers<T, Warp, kMask>(args);
    if (args.cols <= most_of<Block>(sizeof(T))) return in_registers<T, Block, kMask>(args);
    in_registers<T, Large, kMask>(args);
  }

  void norms() const {
    const MaskNormsArgs<E> args{of.w, of.rows, of.cols, wide(), at<C>(select.norms)};
    if (of.cols > 2048)
      VDK_LAUNCH((mask_row_norms<E, true>), Grid{of.rows}, kMaskThreads, 0, stream, args);
    else
      VDK_LAUNCH((mask_row_norms<E, false>), Grid{ceil_div(of.rows, kMaskThreads / 32)}, kMaskThreads, 0,
                 stream, args);
  }

  void all() const {
    if (of.rows * of.cols == 0) return;
    numbers();
    if (!of.gamma) return apply(false);
    if (!select.units) {
      thresholds<true>(arguments());
      if (select.spans) apply(false);
      return;
    }
    norms();
    const C* const from = at<C>(select.norms);
    thresholds<false>(MaskKernelArgs<C>{from, from, nullptr, 1, of.rows, true, of.seed, at<MaskNumbers>(0),
                                        at<C>(select.bound), nullptr, nullptr});
    apply(true);
  }
};

}  // namespace

int64_t weight_mask_workspace(int64_t rows, int64_t cols, Granularity granularity, int64_t size) {
  return Selection(rows, cols, granularity, size).bytes;
}

void weight_mask(const WeightMaskArgs<float>& args, void* stream) { Launch<float>(args, stream).all(); }
void weight_mask(const WeightMaskArgs<double>& args, void* stream) { Launch<double>(args, stream).all(); }
void weight_mask(const WeightMaskArgs<Float16>& args, void* stream) { Launch<Float16>(args, stream).all(); }
void weight_mask(const WeightMaskArgs<BFloat16>& args, void* stream) { Launch<BFloat16>(args, stream).all(); }

}  // namespace cuda
}  // namespace vdk
