#include "cuda.cuh"

namespace vdk {
namespace cuda {
namespace {

int64_t parts_of_row(int64_t cols) { return ceil_div(groups_of(cols), kRowGroups); }
int64_t parts_of_columns(int64_t rows) { return ceil_div(rows, kColumnRows); }

template <class E>
struct Launch {
  using C = ComputeOf<E>;
  const WeightNoiseArgs<E>& of;
  void* stream;

  bool own() const { return of.log_rows == of.rows && of.log_cols == of.cols; }
  bool by_column() const { return !own() && of.log_cols == of.cols && of.log_cols > 1; }

  bool wide() const {
    const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % alignof(Four<E>) == 0; };
    return (of.cols % 4 == 0 || of.rows == 1) && aligned(of.mu) && aligned(of.log) && aligned(of.grad) &&
           aligned(of.out) && aligned(of.dlog);
  }

  // Every weight by itself.
  void flat() const {
    WeightNoiseKernelArgs<E> args{of, wide(), of.log_rows == of.rows ? 1 : 0, nullptr};
    if (of.cols % 4 == 0 && (own() || of.log_rows == 1)) {  // without padding the whole tensor is one row
      args.of.cols *= of.rows;
      args.of.rows = 1;
    }
    const int64_t groups = args.of.rows * groups_of(args.of.cols);
    const Grid grid{ceil_div(groups, int64_t(kWeightThreads) * kWeightGroups)};
    if (!own())
      VDK_LAUNCH((weight_noise_kernel<E, true, false, false>), grid, kWeightThreads, 0, stream, args);
    else if (of.is_alpha)
      of.grad
          ? VDK_LAUNCH((weight_noise_kernel<E, true, true, true>), grid, kWeightThreads, 0, stream, args)
          : VDK_LAUNCH((weight_noise_kernel<E, true, true, false>), grid, kWeightThreads, 0, stream, args);
    else
      of.grad
          ? VDK_LAUNCH((weight_noise_kernel<E, false, true, true>), grid, kWeightThreads, 0, stream, args)
          : VDK_LAUNCH((weight_noise_kernel<E, false, true, false>), grid, kWeightThreads, 0, stream, args);
  }

  // A log_alpha of the columns.
  template <bool kWide>
  void columns() const {
    const int64_t parts = parts_of_columns(of.rows);
    const WeightNoiseKernelArgs<E> args{of, kWide, 0, parts > 1 ? of.workspace : of.dlog_sums};
    const Grid grid{parts, ceil_div(groups_of(of.cols), kColumnThreads)};
    if (of.grad)
      VDK_LAUNCH((weight_noise_columns<E, true, kWide>), grid, kColumnThreads, 0, stream, args);
    else
      VDK_LAUNCH((weight_noise_columns<E, false, kWide>), grid, kColumnThreads, 0, stream, args);
    if (of.grad) add(parts, of.cols);
  }

  // Gradients of a log_alpha of the rows, or of all.
  template <bool kWide>
  void rows() const {
    const int64_t parts = parts_of_row(of.cols), each = of.log_rows == of.rows;
    const bool done = each ? parts == 1 : parts * of.rows == 1;
    const WeightNoiseKernelArgs<E> args{of, kWide, each, done ? of.dlog_sums : of.workspace};
    const Grid grid{ceil_div(of.rows, kWeightThreads / 32), parts};
    VDK_LAUNCH((weight_noise_rows<E, kWide>), grid, kWeightThreads, 0, stream, args);
    if (each)
      add(parts, of.rows);
    else if (!done)
      VDK_LAUNCH(sum_kernel<C>, Grid{1}, kSumThreads, 0, stream,
                 SumArgs<C>{of.workspace, parts * of.rows, of.dlog_sums});
  }

  void add(int64_t parts, int64_t n) const {
    if (parts > 1)
      VDK_LAUNCH(sum_parts_kernel<C>, Grid{ceil_div(n, kPartsThreads)}, kPartsThreads, 0, stream,
                 PartsArgs<C>{of.workspace, parts, n, of.dlog_sums});
  }

  void all() const {
    const bool whole = wide() && of.cols % 4 == 0;
    if (by_column())
      whole ? columns<true>() : columns<false>();
    else if (of.grad && !own())
      whole ? rows<true>() : rows<false>();
    else
      flat();
  }
};

}  // namespace

int64_t weight_noise_workspace(int64_t rows, int64_t cols, int64_t log_rows, int64_t log_cols) {
  if (log_rows == rows && log_cols == cols) return 0;
  return log_cols == cols && cols > 1 ? parts_of_columns(rows) * cols : parts_of_row(cols) * rows;
}

void weight_noise(const WeightNoiseArgs<float>& args, void* stream) { Launch<float>{args, stream}.all(); }
void weight_noise(const WeightNoiseArgs<double>& args, void* stream) { Launch<double>{args, stream}.all(); }
void weight_noise(const WeightNoiseArgs<Float16>& args, void* stream) { Launch<Float16>{args, stream}.all(); }
void weight_noise(const WeightNoiseArgs<BFloat16>& args, void* stream) {
  Launch<BFloat16>{args, stream}.all();
}

}  // namespace cuda
}  // namespace vdk
