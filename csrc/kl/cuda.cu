#include "cuda.cuh"

namespace vdk {
namespace cuda {
namespace {

template <class E>
int64_t tiles(int64_t n) {
  return ceil_div(n, kKlTile<E>);
}

template <class E, Prior::Kind kPrior>
void launch_tiles(const KlKernelArgs<E>& args, void* stream) {
  const Grid grid{tiles<E>(args.of.n)};
  if (args.of.dlog)
    VDK_LAUNCH((kl_kernel<E, kPrior, true>), grid, kKlThreads, 0, stream, args);
  else
    VDK_LAUNCH((kl_kernel<E, kPrior, false>), grid, kKlThreads, 0, stream, args);
}

template <class E>
void launch_tiles(const KlKernelArgs<E>& args, void* stream) {
  switch (args.of.prior) {
    case Prior::kLogUniform:
      return launch_tiles<E, Prior::kLogUniform>(args, stream);
    case Prior::kKingma:
      return launch_tiles<E, Prior::kKingma>(args, stream);
    case Prior::kExact:
      return launch_tiles<E, Prior::kExact>(args, stream);
    case Prior::kArd:
      return launch_tiles<E, Prior::kArd>(args, stream);
    case Prior::kNormal:
      return launch_tiles<E, Prior::kNormal>(args, stream);
    case Prior::kNone:
      throw std::invalid_argument("kl: no prior");
  }
}

template <class E>
void kl_all(const KlArgs<E>& args, void* stream) {
  using T = ComputeOf<E>;
  const int64_t n_partial = tiles<E>(args.n);
  const bool wide = all_aligned16(args.mu, args.log, args.dmu, args.dlog);
  launch_tiles(
      KlKernelArgs<E>{args, wide, normal_prior<T>(args.prior), n_partial == 1 ? args.value : args.workspace},
      stream);
  if (n_partial != 1)
    VDK_LAUNCH(sum_kernel<T>, Grid{1}, kSumThreads, 0, stream,
               SumArgs<T>{args.workspace, n_partial, args.value});
}

}  // namespace

int64_t kl_workspace(int64_t n) { return tiles<double>(n); }  // the smaller tiles

void kl(const KlArgs<float>& args, void* stream) { kl_all(args, stream); }
void kl(const KlArgs<double>& args, void* stream) { kl_all(args, stream); }
void kl(const KlArgs<Float16>& args, void* stream) { kl_all(args, stream); }
void kl(const KlArgs<BFloat16>& args, void* stream) { kl_all(args, stream); }

}  // namespace cuda
}  // namespace vdk
