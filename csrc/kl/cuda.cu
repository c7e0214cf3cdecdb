#include "cuda.cuh"

namespace vdk {
namespace cuda {
namespace {

template <class T>
int64_t tiles(int64_t n) {
  return ceil_div(n, kKlTile<T>);
}

template <class T, Prior::Kind kPrior>
void launch_tiles(const KlKernelArgs<T>& args, void* stream) {
  const Grid grid{tiles<T>(args.of.n)};
  if (args.of.dlog)
    VDK_LAUNCH((kl_kernel<T, kPrior, true>), grid, kKlThreads, 0, stream, args);
  else
    VDK_LAUNCH((kl_kernel<T, kPrior, false>), grid, kKlThreads, 0, stream, args);
}

template <class T>
void launch_tiles(const KlKernelArgs<T>& args, void* stream) {
  switch (args.of.prior) {
    case Prior::kLogUniform:
      return launch_tiles<T, Prior::kLogUniform>(args, stream);
    case Prior::kKingma:
      return launch_tiles<T, Prior::kKingma>(args, stream);
    case Prior::kExact:
      return launch_tiles<T, Prior::kExact>(args, stream);
    case Prior::kArd:
      return launch_tiles<T, Prior::kArd>(args, stream);
    case Prior::kNormal:
      return launch_tiles<T, Prior::kNormal>(args, stream);
    case Prior::kNone:
      throw std::invalid_argument("kl: no prior");
  }
}

template <class T>
void kl_all(const KlArgs<T>& args, void* stream) {
  const int64_t n_partial = tiles<T>(args.n);
  const bool wide = all_aligned16(args.mu, args.log, args.dmu, args.dlog);
  launch_tiles(
      KlKernelArgs<T>{args, wide, normal_prior<T>(args.prior), n_partial == 1 ? args.value : args.workspace},
      stream);
  if (n_partial != 1)
    VDK_LAUNCH(sum_kernel<T>, Grid{1}, kSumThreads, 0, stream,
               SumArgs<T>{args.workspace, n_partial, args.value});
}

}  // namespace

int64_t kl_workspace(int64_t n) { return tiles<double>(n); }  // the smaller tiles

void kl(const KlArgs<float>& args, void* stream) { kl_all(args, stream); }
void kl(const KlArgs<double>& args, void* stream) { kl_all(args, stream); }

}  // namespace cuda
}  // namespace vdk
