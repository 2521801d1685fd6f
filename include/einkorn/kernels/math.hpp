/// exp, log, erf, tanh and the two GELUs with their derivatives, on the vector of the level.
///
/// Worst errors in ulp of the exact result, on baseline / on the levels with FMA (tests/math_test.cpp): of
/// exp, log, erf and tanh over all 2^32 floats (EINKORN_TEST_FULL=1), of the others over every 61st:
///   exp     1.24 / 0.96   denormal results included; exp(x) = 0 below -103.98, infinity above 88.73
///   log     0.97 / 0.92   denormal arguments included; log(+-0) = -infinity, log(x < 0) = NaN
///   erf     2.88 / 2.46   never beyond +-1; erf(-0) = -0
///   tanh    1.35 / 1.38   tanh(-0) = -0
///   exp2    2.33 / 2.02   for x <= 0 only; 2.48 on the levels with AVX-512
///   GELUs and their derivatives: 0.65 / 0.61 beside an absolute 3e-8, which is their tail below -5
/// NaN gives NaN everywhere. No result depends on the compiler's contraction: the baseline level rounds
/// products and sums separately, the others fuse them.
#pragma once

#include "math_tables.hpp"
#include "simd.hpp"

EINKORN_BEGIN_LEVEL

namespace math {

// min and max that hand a NaN in `x` through: x86 returns the second operand when either is NaN.
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
inline vf at_most(vf bound, vf x) { return _mm512_min_ps(bound, x); }
inline vf at_least(vf bound, vf x) { return _mm512_max_ps(bound, x); }
inline vf magnitude(vf x) { return _mm512_abs_ps(x); }
/// |x| with the sign of y
inline vf with_sign_of(vf x, vf y) {
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32(0x7fffffff), _mm512_castps_si512(x),
                                                       _mm512_castps_si512(y), 0xca));
}
inline vf select_less(vf a, vf b, vf yes, vf no) {  // a < b ? yes : no
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
inline vf minus_product(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
inline vf product_minus(vf a, vf b, vf c) { return _mm512_fmsub_ps(a, b, c); }   // a * b - c
#elif EINKORN_LEVEL_AT_LEAST_AVX2
inline vf at_most(vf bound, vf x) { return _mm256_min_ps(bound, x); }
inline vf at_least(vf bound, vf x) { return _mm256_max_ps(bound, x); }
inline vf magnitude(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline vf with_sign_of(vf x, vf y) {
  return _mm256_or_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x), _mm256_and_ps(_mm256_set1_ps(-0.0f), y));
}
inline vf select_less(vf a, vf b, vf yes, vf no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline vf minus_product(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
inline vf product_minus(vf a, vf b, vf c) { return _mm256_fmsub_ps(a, b, c); }
#else
inline vf at_most(vf bound, vf x) { return _mm_min_ps(bound, x); }
inline vf at_least(vf bound, vf x) { return _mm_max_ps(bound, x); }
inline vf magnitude(vf x) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), x); }
inline vf with_sign_of(vf x, vf y) {
  return _mm_or_ps(_mm_andnot_ps(_mm_set1_ps(-0.0f), x), _mm_and_ps(_mm_set1_ps(-0.0f), y));
}
inline vf select_less(vf a, vf b, vf yes, vf no) {
  const __m128 less = _mm_cmplt_ps(a, b);
  return _mm_or_ps(_mm_and_ps(less, yes), _mm_andnot_ps(less, no));
}
inline vf minus_product(vf a, vf b, vf c) { return _mm_sub_ps(c, _mm_mul_ps(a, b)); }
inline vf product_minus(vf a, vf b, vf c) { return _mm_sub_ps(_mm_mul_ps(a, b), c); }
#endif

// V is vf or two_vectors.

inline two_vectors at_most(two_vectors bound, two_vectors x) {
  return {at_most(bound.first, x.first), at_most(bound.second, x.second)};
}
inline two_vectors at_least(two_vectors bound, two_vectors x) {
  return {at_least(bound.first, x.first), at_least(bound.second, x.second)};
}
inline two_vectors magnitude(two_vectors x) { return {magnitude(x.first), magnitude(x.second)}; }
inline two_vectors minus_product(two_vectors a, two_vectors b, two_vectors c) {
  return {minus_product(a.first, b.first, c.first), minus_product(a.second, b.second, c.second)};
}
inline two_vectors product_minus(two_vectors a, two_vectors b, two_vectors c) {
  return {product_minus(a.first, b.first, c.first), product_minus(a.second, b.second, c.second)};
}

/// c[0] + x * (c[1] + x * ...)
template <class V, int Count>
inline V horner(V x, const float (&c)[Count]) {
  V sum = broadcast(c[Count - 1]);
  for (int k = Count - 2; k >= 0; --k) sum = fma(sum, x, broadcast(c[k]));
  return sum;
}

/// The same by pairs of terms, with square = x * x: half as long a chain.
template <class V, int Count>
inline V horner_pairs(V x, V square, const float (&c)[Count]) {
  static_assert(Count % 2 == 0);
  V sum = fma(broadcast(c[Count - 1]), x, broadcast(c[Count - 2]));
  for (int k = Count - 4; k >= 0; k -= 2)
    sum = fma(sum, square, fma(broadcast(c[k + 1]), x, broadcast(c[k])));
  return sum;
}

/// A function of a in [0, (Pieces - 1) / scale] (the caller clamps) as polynomials in u = a * scale - i,
/// where i = round(a * scale) and |u| <= 1/2. AVX-512 and AVX2 look a row of coefficients up with one
/// vpermps.
template <int Count, int Pieces>
inline vf piecewise(vf a, float scale, const float (&c)[Count][Pieces]) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const vf shifter = broadcast(12582912.0f);
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  const vf shifted = fma(a, broadcast(scale), shifter);
  const vf u = _mm512_fmsub_ps(a, broadcast(scale), shifted - shifter);
  const __m512i piece = _mm512_castps_si512(shifted);
  vf sum = _mm512_permutexvar_ps(piece, _mm512_loadu_ps(c[Count - 1]));
  for (int k = Count - 2; k >= 0; --k) sum = fma(sum, u, _mm512_permutexvar_ps(piece, _mm512_loadu_ps(c[k])));
  return sum;
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const vf shifted = fma(a, broadcast(scale), shifter);
  const vf u = _mm256_fmsub_ps(a, broadcast(scale), shifted - shifter);
  const __m256i piece = _mm256_castps_si256(shifted);
  const auto row = [&](const float* values) -> vf {
    __m256 all = _mm256_loadu_ps(values);
    // Zen takes one vpermps a cycle from registers, one in two cycles from memory.
    asm("" : "+x"(all));
    return _mm256_permutevar8x32_ps(all, piece);
  };
  vf sum = row(c[Count - 1]);
  for (int k = Count - 2; k >= 0; --k) sum = fma(sum, u, row(c[k]));
  return sum;
#else
  const vf scaled = a * broadcast(scale);
  const vf shifted = scaled + shifter;
  const vf u = scaled - (shifted - shifter);
  const __m128i piece = _mm_and_si128(_mm_castps_si128(shifted), _mm_set1_epi32(15));
  alignas(16) int at[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(at), piece);
  const auto row = [&](const float* values) -> vf {
    return _mm_setr_ps(values[at[0]], values[at[1]], values[at[2]], values[at[3]]);
  };
  vf sum = row(c[Count - 1]);
  for (int k = Count - 2; k >= 0; --k) sum = fma(sum, u, row(c[k]));
  return sum;
#endif
}

// ln 2 in two parts: the upper has 9 trailing zero bits, so that n * upper is exact without FMA.
inline constexpr float ln2_upper = 0x1.62e4p-1f, ln2_lower = 0x1.7f7d1cp-20f;
inline constexpr float exp_coefficients[] = {1.0f,          1.0f,           0.5f,          0.166665778f,
                                             0.0416665561f, 0.00836317334f, 0.00139261759f};
inline constexpr float log2_e = 1.44269504f;
// On [0, 1), and on [-1/2, 1/2].
inline constexpr float exp2_of_fraction[] = {0.99999994f,   0.693153083f,   0.240153596f,
                                             0.0558263585f, 0.00898931641f, 0.00187757798f};
inline constexpr float exp2_coefficients[] = {1.0f,          0.693147004f,   0.240222424f,
                                              0.0555073358f, 0.00967149902f, 0.00132647448f};
inline constexpr float log_coefficients[] = {0.333333343f, -0.250000566f,  0.200001404f,
                                             -0.16660817f, 0.142683074f,   -0.126393154f,
                                             0.116806716f, -0.0956129506f, 0.0428715795f};
inline constexpr float tanh_coefficients[] = {-0.333333284f, 0.133327693f, -0.0538509078f, 0.0209971797f,
                                              -0.00609671418f};

/// 2^n of n + 1.5 * 2^23 + 127, for a whole n from -126 to 127; 0 for -127.
inline vf exponent(vf shifted) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
#else
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(shifted), 23));
#endif
}
inline two_vectors exponent(two_vectors shifted) {
  return {exponent(shifted.first), exponent(shifted.second)};
}

/// 2^(t + Offset) for t < 127 - Offset: its worst error is 1.9e-7 of it from t = -126 - Offset on, below
/// 2^-126 under it. Exactly 2^Offset for 0 and 0 for -infinity. NaN stays.
template <int Offset, class V>
inline V power_of_two(V t) {
  t = at_least(broadcast(-127.0f - Offset), t);
  // Adding 1.5 * 2^23 + 127 + Offset rounds to a whole n and leaves n + Offset + 127 in the low bits.
  const vf shifter = broadcast(12582912.0f + 127.0f + Offset);
  const V shifted = t + shifter;
  return horner(t - (shifted - shifter), exp2_coefficients) * exponent(shifted);
}

/// p * 2^n for a whole n from -151 to 128. AVX-512: for any n, rounded down.
inline vf times_power_of_two(vf p, vf n) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return _mm512_scalef_ps(p, n);
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  // 2^n in two factors: the first product is exact.
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const vf first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const vf second =
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23));
  return p * first * second;
#else
  const __m128i whole = _mm_cvtps_epi32(n);
  const __m128i half = _mm_srai_epi32(whole, 1);
  const __m128i bias = _mm_set1_epi32(127);
  const vf first = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(half, bias), 23));
  const vf second = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(_mm_sub_epi32(whole, half), bias), 23));
  return p * first * second;
#endif
}

}  // namespace math

/// e^x. AVX-512: 13 instructions.
inline vf exp(vf x) {
  // Beyond these the result is infinity or 0 anyway; the clamp keeps n * ln 2 accurate.
  x = math::at_least(broadcast(-105.0f), math::at_most(broadcast(89.0f), x));
  const vf shifter = broadcast(12582912.0f);
  const vf shifted = fma(x, broadcast(1.44269504f), shifter);
  const vf n = shifted - shifter;
  const vf r = math::minus_product(n, broadcast(math::ln2_lower),
                                   math::minus_product(n, broadcast(math::ln2_upper), x));
  const vf p = math::horner(r, math::exp_coefficients);
  return math::times_power_of_two(p, n);
}

/// 2^t for t < 127: relative error below 1.9e-7 from t = -126 on, an absolute one below 2^-126 under it,
/// exactly 1 for 0 and exactly 0 for -infinity. NaN stays. AVX-512: vscalefps would take the place of two of
/// the 12 instructions, but two cycles (Zen 4).
inline vf power_of_two(vf t) { return math::power_of_two<0>(t); }
inline two_vectors power_of_two(two_vectors t) { return math::power_of_two<0>(t); }

/// 2^x for the probabilities of softmax, where x <= 0: denormal results too, 0 below -150, NaN for NaN.
/// AVX-512: 7 instructions. e^x as 2^(x log2 e) has an error of |x| / 2 ulp more, which is what x, a
/// difference of rounded numbers, brings with it anyway. scaled_exp2 is exp2_scale times that, one product
/// less for what is divided by its sum.
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
inline constexpr float exp2_scale = 1;
inline vf scaled_exp2(vf x) {
  const vf fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // 0 for -infinity
  return math::times_power_of_two(math::horner(fraction, math::exp2_of_fraction), x);
}
inline two_vectors scaled_exp2(two_vectors x) { return {scaled_exp2(x.first), scaled_exp2(x.second)}; }
#else
inline constexpr float exp2_scale = 0x1p64f;
inline vf scaled_exp2(vf x) { return math::power_of_two<64>(x); }
inline two_vectors scaled_exp2(two_vectors x) { return math::power_of_two<64>(x); }
#endif
inline vf exp2(vf x) { return scaled_exp2(x) * broadcast(1 / exp2_scale); }

/// Natural logarithm: x = 2^e * (1 + f) with 1 + f in [0.75, 1.5).
inline vf log(vf x) {
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  // For 0 and infinity getexp is -infinity and infinity, getmant 1; a negative mantissa is NaN.
  const vf m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
  const vf e = _mm512_sub_ps(_mm512_getexp_ps(x), _mm512_getexp_ps(m));
#elif EINKORN_LEVEL_AT_LEAST_AVX2
  const __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(0x1p-126f), _CMP_LT_OQ);
  const __m256i bits =
      _mm256_castps_si256(_mm256_blendv_ps(x, _mm256_mul_ps(x, _mm256_set1_ps(0x1p23f)), tiny));
  const __m256i three_quarters = _mm256_set1_epi32(0x3f400000);
  const __m256i whole = _mm256_srai_epi32(_mm256_sub_epi32(bits, three_quarters), 23);
  const vf m = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(whole, 23)));
  const vf e = _mm256_sub_ps(_mm256_cvtepi32_ps(whole), _mm256_and_ps(tiny, _mm256_set1_ps(23.0f)));
#else
  const __m128 tiny = _mm_cmplt_ps(x, _mm_set1_ps(0x1p-126f));
  const __m128 scaled = _mm_mul_ps(x, _mm_set1_ps(0x1p23f));
  const __m128i bits = _mm_castps_si128(_mm_or_ps(_mm_and_ps(tiny, scaled), _mm_andnot_ps(tiny, x)));
  const __m128i three_quarters = _mm_set1_epi32(0x3f400000);
  const __m128i whole = _mm_srai_epi32(_mm_sub_epi32(bits, three_quarters), 23);
  const vf m = _mm_castsi128_ps(_mm_sub_epi32(bits, _mm_slli_epi32(whole, 23)));
  const vf e = _mm_sub_ps(_mm_cvtepi32_ps(whole), _mm_and_ps(tiny, _mm_set1_ps(23.0f)));
#endif
  const vf f = m - broadcast(1.0f);
  const vf square = f * f;
  vf low = fma(f, math::horner(f, math::log_coefficients), broadcast(-0.5f)) * square;
  low = fma(e, broadcast(math::ln2_lower), low);
  const vf result = fma(e, broadcast(math::ln2_upper), f + low);
#if EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
  return result;
#else
  const float infinity = __builtin_inff();
  // 0 gives -infinity, what is below it NaN; infinity and NaN give themselves.
  const vf special =
      math::select_less(x, broadcast(0.0f), broadcast(__builtin_nanf("")), broadcast(-infinity)) + (x - x);
  const vf usual = math::select_less(x, broadcast(infinity), result, x);
  return math::select_less(broadcast(0.0f), x, usual, special);
#endif
}

/// 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x, as x * (erf(x) / x).
inline vf erf(vf x) {
  const vf a = math::at_most(broadcast(math::erf_clamp), math::magnitude(x));
  const vf value = a * math::piecewise(a, math::erf_scale, math::erf_table);
  return math::with_sign_of(math::at_most(broadcast(1.0f), value), x);
}

inline vf tanh(vf x) {
  // Below 0.625 an odd polynomial, elsewhere 1 - 2 / (e^2a + 1), which is 1 from 9.02 on.
  const vf a = math::at_most(broadcast(10.0f), math::magnitude(x));
  const vf square = a * a;
  const vf small = fma(a * square, math::horner(square, math::tanh_coefficients), a);
  const vf large = broadcast(1.0f) - broadcast(2.0f) / (exp(a + a) + broadcast(1.0f));
  return math::with_sign_of(math::select_less(a, broadcast(0.625f), small, large), x);
}

// With a = |x| and Q(a) = Phi(-a), the Gaussian tail, x * Phi(x) = max(x, 0) - a * Q(a): accurate on both
// sides, where 0.5 * x * (1 + erf(x / sqrt(2))) cancels for negative x.

/// x * Phi(x), the GELU with erf. gelu(-infinity) = -0.
#if EINKORN_LEVEL_AT_LEAST_AVX2 && !EINKORN_LEVEL_AT_LEAST_AVX512_VNNI
namespace math {
// Q(a) = 2^t / 2, where t = a * (a polynomial): 25 instructions without a look-up. A product of few terms
// is enough, since the error of a * Q(a) counts, in which that of t fades with Q. t + 1.5 * 2^23 + 127
// is a whole number whose last bits are the exponent of 2^n, n = round(t): 0 at the clamp.
template <class V>
inline V gelu(V x) {
  const V a = at_most(broadcast(gelu_clamp), magnitude(x));
  const V slope = horner_pairs(a, a * a, gelu_log2);
  const vf shifter = broadcast(12582912.0f + 127.0f);
  const V shifted = fma(a, slope, shifter);
  const V fraction = product_minus(a, slope, shifted - shifter);
  return minus_product(a * exponent(shifted), horner(fraction, half_exp2), at_least(broadcast(-0.0f), x));
}
}  // namespace math
inline vf gelu(vf x) { return math::gelu(x); }
inline two_vectors gelu(two_vectors x) { return math::gelu(x); }
#else
// Q is one piecewise polynomial, 0 from its last point on (a = 6), where a * Q(a) < 6e-9. AVX-512: 18
// instructions.
inline vf gelu(vf x) {
  const vf a = math::at_most(broadcast(math::gelu_clamp), math::magnitude(x));
  return math::minus_product(a, math::piecewise(a, math::gelu_scale, math::gelu_table),
                             math::at_least(broadcast(-0.0f), x));
}
inline two_vectors gelu(two_vectors x) { return {gelu(x.first), gelu(x.second)}; }
#endif

/// x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2: hidden_act gelu_new or gelu_pytorch_tanh.
inline vf gelu_tanh(vf x) {
  const vf a = math::at_most(broadcast(math::gelu_tanh_clamp), math::magnitude(x));
  return math::minus_product(a, math::piecewise(a, math::gelu_tanh_scale, math::gelu_tanh_table),
                             math::at_least(broadcast(-0.0f), x));
}

// The derivative at -a is D(a), at +a 1 - D(a).

/// Phi(x) + x * phi(x), the derivative of gelu.
inline vf gelu_derivative(vf x) {
  const vf a = math::at_most(broadcast(math::gelu_derivative_clamp), math::magnitude(x));
  const vf d = math::piecewise(a, math::gelu_derivative_scale, math::gelu_derivative_table);
  return math::select_less(broadcast(0.0f), x, broadcast(1.0f) - d, d);
}

/// The derivative of gelu_tanh.
inline vf gelu_tanh_derivative(vf x) {
  const vf a = math::at_most(broadcast(math::gelu_tanh_derivative_clamp), math::magnitude(x));
  const vf d = math::piecewise(a, math::gelu_tanh_derivative_scale, math::gelu_tanh_derivative_table);
  return math::select_less(broadcast(0.0f), x, broadcast(1.0f) - d, d);
}

EINKORN_END_LEVEL
