// Draws from the truncated log-normal and their derivatives, in double whatever the tensors are: its draws
// are few, its ends cancel. On vectors and on scalars, host and device. The formulas are those of
// vdropkern/ops/gate/truncated.py.
#pragma once
#include "double_math.h"

namespace vdk {

// What a channel's draws share. A draw lies on one side of `base`: towards low (0) or high (1).
template <class V>
struct LogNormalSide {
  V k, width, m_k, far;  // the far end, its distance, Mills' ratio there, Q(k) / Q(h)
};
template <class V>
struct LogNormalChannels {
  V sigma, base, h, m_h, e_h, left, right, per_left, per_right;
  V above, below;  // 1 or 0
  LogNormalSide<V> side[2];
};

template <class V>
VDK_HD LogNormalSide<V> side_of(V k, V width, V h, V m_h) {
  const V m_k = mills(k);
  return {k, width, m_k, exp_f64(-0.5 * width * (h + k)) * m_k / m_h};
}

template <class V>
VDK_HD LogNormalChannels<V> log_normal_channels(V mu, V log_sigma2, double low, double high) {
  LogNormalChannels<V> c;
  // squares of whatever is divided by sigma stay finite
  c.sigma = exp_f64(0.5 * minimum(V{} + 400.0, maximum(V{} - 400.0, log_sigma2)));
  const V alpha = (low - mu) / c.sigma, beta = (high - mu) / c.sigma, width = (high - low) / c.sigma;
  const auto above = alpha >= 0.0, below = beta <= 0.0;
  const auto outside = above | below;
  const V zero{}, one = V{} + 1.0;
  c.above = above ? one : zero;
  c.below = below ? one : zero;
  c.base = above ? V{} + low : below ? V{} + high : mu;
  c.h = above ? alpha : below ? zero - beta : zero;
  c.m_h = mills(c.h);
  c.e_h = mills_rest(c.h);
  const V k_low = maximum(zero - alpha, zero), k_high = maximum(beta, zero);
  c.side[0] = side_of(k_low, outside ? width : k_low, c.h, c.m_h);
  c.side[1] = side_of(k_high, outside ? width : k_high, c.h, c.m_h);
  c.left = 0.5 - 0.5 * c.side[0].far;  // of N(0, 1) between the end and 0, where h is 0
  c.right = 0.5 - 0.5 * c.side[1].far;
  c.per_left = 1.0 / c.left;
  c.per_right = 1.0 / c.right;
  return c;
}

// d with Q(h + d) / Q(h) = exp(-s): see `_distance` there. Off by 1e-8 / (1 + h) after two steps, by double's
// roundings after three.
template <int kSteps, class V>
VDK_HD V tail_distance(V h, V m_h, V s) {
  V d = minimum(s * m_h, 2.0 * s / (h + square_root(h * h + 2.0 * s)));
  for (int step = 0; step < kSteps; ++step) {
    const V m_t = mills(h + d);
    const V correction = (d * (h + 0.5 * d) - log_f64(m_t / m_h) - s) * m_t;
    d = maximum(d - correction / (1.0 - 0.5 * correction * (1.0 / m_t - (h + d))), V{});
  }
  return d;
}

// The same for h = 0, off by 2e-8 of itself: d / s, which falls from sqrt(pi / 2) as 1 / sqrt(s), as a
// polynomial in 1 / (1 + sqrt(s)), interpolated at Chebyshev's points of s <= 24, the most of a 32-bit word.
template <class V>
VDK_HD V distance_from_mean(V s) {
  static constexpr double c[] = {1.0290120118027735,      0.55583768160488711,    -0.37396504189286567,
                                 -0.082045749891181907,   0.16053630854686468,    0.019413274741101511,
                                 -0.076862121490030119,   -0.0066629332806557992, 0.040208216918858473,
                                 0.0027857751050079666,   -0.02125037133761043,   -0.0011942287533645655,
                                 0.0099814095978996518,   0.00039143840328043105, -0.0033738449698451365,
                                 -6.5829623049892369e-05, 0.00056814470707380589};
  return s * polynomial(c, (1.0 / (1.0 + square_root(s)) - 0.585) * (1 / 0.415));
}

template <class V>
struct LogNormalDraw {
  V theta, by_location, by_log_sigma2;
};

// kInside: mu lies in the interval in every lane. kSingle: for floats.
template <bool kSingle, bool kInside, class V>
VDK_HD LogNormalDraw<V> log_normal_draw(const LogNormalChannels<V>& c, V u, V rest, double low, double high,
                                        bool derivatives) {
  const V zero{}, one = V{} + 1.0;
  const auto above = c.above != 0.0, below = c.below != 0.0, inside = c.above + c.below == 0.0;
  const V z = c.left + c.right, uz = u * z;
  const auto to_left = uz < c.left;
  const auto mirrored = below | (inside & to_left);
  const V k = mirrored ? c.side[0].k : c.side[1].k, m_k = mirrored ? c.side[0].m_k : c.side[1].m_k;
  const V width = mirrored ? c.side[0].width : c.side[1].width;
  const V far = mirrored ? c.side[0].far : c.side[1].far;
  const V v_inside = to_left ? (c.left - uz) * c.per_left : (uz - c.left) * c.per_right;
  const V w_inside = to_left ? uz * c.per_left : rest * z * c.per_right;
  const V v = above ? u : below ? rest : minimum(one, maximum(zero, v_inside));
  const V w = above ? rest : below ? u : minimum(one, maximum(zero, w_inside));

  const V p = v * (1.0 - far), q = w + v * far;
  const V s = minus_log(p, q);
  const V distance =
      kSingle && kInside ? distance_from_mean(s) : tail_distance<kSingle ? 2 : 3>(c.h, c.m_h, s);
  const V d = minimum(distance, width);
  const V t = c.h + d, sign = mirrored ? zero - one : one;
  const V y = c.base + sign * c.sigma * d;
  const V theta = exp_f64<kSingle>(minimum(V{} + high, maximum(V{} + low, y)));
  LogNormalDraw<V> draw{theta, zero, zero};
  if (!derivatives) return draw;

  const V a = c.side[0].k, b = c.side[1].k;  // where mu lies inside: |alpha| and beta
  const V w_low = rest * exp_f64<kSingle>(0.5 * (t - a) * (t + a));
  const V w_high = u * exp_f64<kSingle>(0.5 * (t - b) * (t + b));
  V by_mu = 1.0 - w_low - w_high, by_log_sigma = sign * t + w_low * a - w_high * b;
  if (!kInside) {
    const V w_far = v * exp_f64(-0.5 * (width - d) * (t + k));
    const V near = 1.0 - mills(t) / c.m_h;
    const V tail = (d - t * c.e_h + c.h * mills_rest(t)) / maximum(t * (1.0 - c.e_h), V{} + 1e-300);
    const V stays = (c.h < 1.0 ? near : tail) + w_far * m_k / c.m_h;
    by_mu = inside ? by_mu : stays - w_far;
    by_log_sigma = inside ? by_log_sigma : sign * (c.h * stays + d - w_far * k);
  }
  draw.by_location = theta * by_mu;
  draw.by_log_sigma2 = 0.5 * theta * c.sigma * by_log_sigma;
  return draw;
}

}  // namespace vdk
