#include "check.h"
#include "kl/cuda.cuh"
#include "kl/formulas.h"

namespace {

using vdk::BFloat16;
using vdk::computed;
using vdk::Float16;
using vdk::Prior;
using vdk::stored;

// One tile and a bit, so that a tile is ragged and both stages of the sum run.
template <class E, Prior::Kind kPrior>
void check_kl(bool mean, bool grads) {
  using T = vdk::ComputeOf<E>;
  const double rounded = sizeof(E) == 2 ? 0x1p-8 : 1e-4;  // of gradients
  constexpr bool kNormal = kPrior == Prior::kNormal;
  const int64_t n = vdk::cuda::kKlTile<E> + 37;
  std::vector<E> mu(n), log(n), dmu(n, stored<E>(NAN)), dlog(n, stored<E>(NAN));
  std::vector<T> workspace(size_t(vdk::cuda::kl_workspace(n)));
  T value = NAN;
  const Prior prior(kPrior, 4, std::log(4.0));
  const T grad = T(0.5);
  for (int64_t i = 0; i < n; ++i) {
    mu[i] = stored<E>(T(0.02 + 0.001 * double(i % 61)));
    log[i] = stored<E>(T((mean ? -12 : -6) + 0.01 * double(i % 601)));
  }
  vdk::cuda::kl(vdk::cuda::KlArgs<E>{mean ? mu.data() : nullptr, log.data(), n, prior, &grad,
                                     mean && grads ? dmu.data() : nullptr, grads ? dlog.data() : nullptr,
                                     &value, workspace.data()},
                nullptr);
  double expected = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double m = computed(mu[i]), l = computed(log[i]);
    const double a = mean ? m * m + vdk::kKlEps : 1, s = std::exp(l);
    const vdk::Weight<double> w{kNormal ? a - vdk::kKlEps : a, s, kNormal ? l : std::log(s / a)};
    const vdk::NormalPrior<double> normal = vdk::normal_prior<double>(prior);
    vdk::KlTerms<double> terms = vdk::kl_terms<double, kPrior>(w, normal);
    if (kPrior == Prior::kLogUniform) {
      const vdk::KlTerms<double> bump = vdk::kl_bump<double>(w.la);
      terms.value += bump.value;
      terms.slope += bump.slope;
    }
    expected += terms.value;
    if (!grads) continue;
    emu::expect_close(computed(dlog[i]), 0.5 * terms.slope, rounded, "dlog");
    const double by_mu = kNormal ? m * prior.precision : terms.slope * -2 * m / a;
    if (mean) emu::expect_close(computed(dmu[i]), 0.5 * by_mu, rounded, "dmu");
  }
  emu::expect_close(value, expected, 1e-4, "value");
}

template <class E, Prior::Kind kPrior>
void check_all() {
  for (bool mean : {true, false}) {
    if (!mean && kPrior == Prior::kNormal) continue;  // is no function of log_alpha
    for (bool grads : {true, false}) check_kl<E, kPrior>(mean, grads);
  }
}

}  // namespace

VDK_CHECK("kl log-uniform float") { check_all<float, Prior::kLogUniform>(); }
VDK_CHECK("kl log-uniform double") { check_all<double, Prior::kLogUniform>(); }
VDK_CHECK("kl log-uniform-kingma float") { check_all<float, Prior::kKingma>(); }
VDK_CHECK("kl log-uniform-kingma double") { check_all<double, Prior::kKingma>(); }
VDK_CHECK("kl log-uniform-exact float") { check_all<float, Prior::kExact>(); }
VDK_CHECK("kl log-uniform-exact double") { check_all<double, Prior::kExact>(); }
VDK_CHECK("kl ard float") { check_all<float, Prior::kArd>(); }
VDK_CHECK("kl ard double") { check_all<double, Prior::kArd>(); }
VDK_CHECK("kl normal float") { check_all<float, Prior::kNormal>(); }
VDK_CHECK("kl normal double") { check_all<double, Prior::kNormal>(); }
VDK_CHECK("kl log-uniform Float16") { check_all<Float16, Prior::kLogUniform>(); }
VDK_CHECK("kl log-uniform BFloat16") { check_all<BFloat16, Prior::kLogUniform>(); }
VDK_CHECK("kl log-uniform-kingma BFloat16") { check_all<BFloat16, Prior::kKingma>(); }
VDK_CHECK("kl log-uniform-exact Float16") { check_all<Float16, Prior::kExact>(); }
VDK_CHECK("kl log-uniform-exact BFloat16") { check_all<BFloat16, Prior::kExact>(); }
VDK_CHECK("kl ard Float16") { check_all<Float16, Prior::kArd>(); }
VDK_CHECK("kl ard BFloat16") { check_all<BFloat16, Prior::kArd>(); }
VDK_CHECK("kl normal Float16") { check_all<Float16, Prior::kNormal>(); }
VDK_CHECK("kl normal BFloat16") { check_all<BFloat16, Prior::kNormal>(); }
