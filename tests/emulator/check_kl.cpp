#include "check.h"
#include "kl/cuda.h"
#include "kl/formulas.h"

namespace {

using vdk::Prior;

// One tile and a bit, so that a tile is ragged and both stages of the sum run.
template <class T, Prior::Kind kPrior>
void check_kl(bool mean, bool grads) {
  constexpr bool kNormal = kPrior == Prior::kNormal;
  const int64_t n = 2048 * 4 / int64_t(sizeof(T)) + 37;
  std::vector<T> mu(n), log(n), dmu(n, NAN), dlog(n, NAN), workspace(size_t(vdk::cuda::kl_workspace(n)));
  T value = NAN;
  const Prior prior(kPrior, 4, std::log(4.0));
  const T grad = T(0.5);
  for (int64_t i = 0; i < n; ++i) {
    mu[i] = T(0.02 + 0.001 * double(i % 61));
    log[i] = T((mean ? -12 : -6) + 0.01 * double(i % 601));
  }
  vdk::cuda::kl(vdk::cuda::KlArgs<T>{mean ? mu.data() : nullptr, log.data(), n, prior, &grad,
                                     mean && grads ? dmu.data() : nullptr, grads ? dlog.data() : nullptr,
                                     &value, workspace.data()},
                nullptr);
  double expected = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double a = mean ? double(mu[i]) * mu[i] + vdk::kKlEps : 1, s = std::exp(double(log[i]));
    const vdk::Weight<double> w{kNormal ? a - vdk::kKlEps : a, s, kNormal ? double(log[i]) : std::log(s / a)};
    const vdk::NormalPrior<double> normal = vdk::normal_prior<double>(prior);
    vdk::KlTerms<double> terms = vdk::kl_terms<double, kPrior>(w, normal);
    if (kPrior == Prior::kLogUniform) {
      const vdk::KlTerms<double> bump = vdk::kl_bump<double>(w.la);
      terms.value += bump.value;
      terms.slope += bump.slope;
    }
    expected += terms.value;
    if (!grads) continue;
    emu::expect_close(dlog[i], 0.5 * terms.slope, 1e-4, "dlog");
    const double by_mu = kNormal ? mu[i] * prior.precision : terms.slope * -2 * mu[i] / a;
    if (mean) emu::expect_close(dmu[i], 0.5 * by_mu, 1e-4, "dmu");
  }
  emu::expect_close(value, expected, 1e-4, "value");
}

template <class T, Prior::Kind kPrior>
void check_all() {
  for (bool mean : {true, false}) {
    if (!mean && kPrior == Prior::kNormal) continue;  // is no function of log_alpha
    for (bool grads : {true, false}) check_kl<T, kPrior>(mean, grads);
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
