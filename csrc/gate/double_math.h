// exp and log in double, on vectors after fdlibm and within 2 ulp, on scalars of the C library or of CUDA's;
// and Mills' ratio on either.
#pragma once
#ifdef VDK_ISA
#include "../common/simd.h"
#else
#include "../common/scalar.h"
#endif

namespace vdk {

#ifdef __CUDACC__
#define VDK_UNROLL_4 _Pragma("unroll 4")
#else
#define VDK_UNROLL_4 _Pragma("GCC unroll 4")
#endif
template <int n, class V>
VDK_HD V polynomial(const double (&c)[n], V t) {
  // four sums of every fourth power: a quarter of the wait for one product after the other
  const V t2 = t * t, t4 = t2 * t2;
  V sums[4];
  VDK_UNROLL_4
  for (int j = 0; j < 4; ++j) {
    const int last = (n - 1 - j) / 4 * 4 + j;
    sums[j] = V{} + c[last];
    VDK_UNROLL
    for (int i = last - 4; i >= 0; i -= 4) sums[j] = sums[j] * t4 + c[i];
  }
  return (sums[3] * t + sums[2]) * t2 + (sums[1] * t + sums[0]);
}

#ifdef VDK_ISA
typedef int64_t VecL __attribute__((vector_size(VDK_VECTOR_BYTES)));

// e^x, for x below -700 as for -700: results stay normal. kSingle: within 1e-11, without a division.
template <bool kSingle = false>
VDK_HD VecD exp_f64(VecD x) {
  const VecD given = x;
  x = minimum(broadcast(700.0), maximum(broadcast(-700.0), x));
  const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, in the low bits
  const VecD n_bits = x * 1.44269504088896338700 + magic;
  const VecD n = n_bits - magic;
  const VecD high = x - n * 6.93147180369123816490e-01, low = n * 1.90821492927058770002e-10;
  const VecD r = high - low, z = r * r;
  if (kSingle) {
    static constexpr double taylor[] = {1.0,       1.0,       1.0 / 2,    1.0 / 6,     1.0 / 24,
                                        1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880};
    const VecD scaled = (VecD)((VecL)polynomial(taylor, r) + ((VecL)n_bits << 52));
    return given == given ? scaled : given;
  }
  VecD p = z * 4.13813679705723846039e-08 - 1.65339022054652515390e-06;
  p = p * z + 6.61375632143793436117e-05;
  p = p * z - 2.77777777770155933842e-03;
  p = p * z + 1.66666666666666019037e-01;
  const VecD c = r - z * p;
  const VecD result = 1.0 - ((low - (r * c) / (2.0 - c)) - high);
  const VecD scaled = (VecD)((VecL)result + ((VecL)n_bits << 52));
  return given == given ? scaled : given;  // NaN stays NaN
}

// ln(1 + f) + exponent ln 2, for f in [sqrt(1/2) - 1, sqrt(2) - 1]; exact relative to f where exponent is 0.
VDK_HD VecD log_of_parts(VecD f, VecD exponent) {
  const VecD s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
  VecD p = z * 1.479819860511658591e-01 + 1.531383769920937332e-01;
  p = p * z + 1.818357216161805012e-01;
  p = p * z + 2.222219843214978396e-01;
  p = p * z + 2.857142874366239149e-01;
  p = p * z + 3.999999999940941908e-01;
  p = (p * z + 6.666666666666735130e-01) * z;
  const VecD small = s * (half + p) + exponent * 1.90821492927058770002e-10;
  return exponent * 6.93147180369123816490e-01 - ((half - small) - f);
}

// For normal x > 0.
VDK_HD void split_f64(VecD x, VecD& f, VecD& exponent) {
  const VecL shifted = (VecL)x - 0x3fe6a09e667f3bcd;  // sqrt(1/2)
  const VecL e = shifted >> 52;
  exponent = __builtin_convertvector(e, VecD);
  f = (VecD)((VecL)x - (e << 52)) - 1.0;
}
VDK_HD VecD log_f64(VecD x) {
  VecD f, exponent;
  split_f64(x, f, exponent);
  const VecD result = log_of_parts(f, exponent);
  return x == x ? result : x;
}

// -ln(1 - p) = -ln q, of p where that is small.
VDK_HD VecD minus_log(VecD p, VecD q) {
  VecD f, exponent;
  split_f64(maximum(q, broadcast(1e-300)), f, exponent);
  const auto small = p < 0.25;
  return VecD{} - log_of_parts(small ? VecD{} - p : f, small ? VecD{} : exponent);
}

#else
template <bool kSingle = false>
VDK_HD double exp_f64(double x) {
  return x == x ? exp(minimum(700.0, maximum(-700.0, x))) : x;
}
VDK_HD double log_f64(double x) { return log(x); }
VDK_HD double minus_log(double p, double q) { return p < 0.25 ? -log1p(-p) : -log(maximum(q, 1e-300)); }
VDK_HD double square_root(double x) { return sqrt(x); }
#endif

// Mills' ratio m(x) = Q(x) / phi(x) for x >= 0, relative error 3e-16: (1 + x) m(x) as a polynomial in
// t = (x - 5) / (x + 5), interpolated at Chebyshev's points.
template <class V>
VDK_HD V mills(V x) {
  static constexpr double c[] = {
      1.15684862829189458,       -0.229487538252113159,    0.0777815988687376876,
      0.0250721793016388,        -0.0661776007790963056,   0.0615050458401864988,
      -0.0380265921858413864,    0.016348231281029381,     -0.00420129032918730683,
      0.0000195306383707907867,  0.000457043923579536555,  -0.000134374278557113508,
      -0.0000248058384519231898, 0.0000227096127092376818, -1.76332392657367463e-7,
      -3.2772876332088651e-6,    3.20543166525895722e-7,   4.91996233147834049e-7,
      -6.58897449110895375e-8,   -7.75852023678634269e-8,  9.09247613401914649e-9,
      1.10320711515743365e-8,    -7.07389857556158864e-10, -9.56483293471255114e-10};
  return polynomial(c, (x - 5.0) / (x + 5.0)) / (1.0 + x);
}

// 1 - x m(x), about 1 / x^2 for large x, relative error 5e-16: (1 + x)^2 times it in the same way.
template <class V>
VDK_HD V mills_rest(V x) {
  static constexpr double c[] = {
      1.29454115124316233,       -0.368722964545018213,     -0.0280306996275151891,
      0.261167007847162464,      -0.273548203763396074,     0.15402166231123108,
      -0.0293109824594179509,    -0.0318618727080392153,    0.0347462267607072439,
      -0.0161317058957564874,    0.00232831561284571287,    0.00157677561750293391,
      -0.000852735088762075124,  -0.0000358181709961819957, 0.000146952144651337827,
      -0.0000172039310611252654, -0.0000234042514517484306, 4.97163692047404182e-6,
      4.01480618558878923e-6,    -9.98521477159800586e-7,   -7.59346786017822974e-7,
      1.66015111542045761e-7,    1.44644032828983654e-7,    -2.11849987156605411e-8,
      -2.26724760128017485e-8,   1.52941860635162062e-9,    1.99822003319566289e-9};
  const V d = 1.0 + x;
  return polynomial(c, (x - 5.0) / (x + 5.0)) / d / d;
}

}  // namespace vdk
