/* Real functions for float32 kernels. Only expf, logf and sqrtf are taken from the compiler's library: every toolchain has them. */
#ifndef EMBARQ_REAL_H
#define EMBARQ_REAL_H

static inline float embarq_limit_f32(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

static inline float embarq_sigmoid(float x)
{
    return 1.0f / (1.0f + __builtin_expf(-x));
}

/* The series near 0, where 1 - 2 / (exp(2 x) + 1) loses its digits. */
static inline float embarq_tanh(float x)
{
    const float x2 = x * x;
    if (x2 < 0.04f) {
        return x * (1.0f - x2 * (1.0f / 3.0f - x2 * (2.0f / 15.0f - x2 * (17.0f / 315.0f))));
    }
    return 1.0f - 2.0f / (__builtin_expf(2.0f * x) + 1.0f);
}

/* exp(x) - 1 */
static inline float embarq_expm1(float x)
{
    if (x > -0.1f && x < 0.1f) {
        return x * (1.0f + x * (0.5f + x * (1.0f / 6.0f + x * (1.0f / 24.0f + x * (1.0f / 120.0f)))));
    }
    return __builtin_expf(x) - 1.0f;
}

/* erf, within 2e-7 everywhere: Abramowitz and Stegun 7.1.26, and the series near 0 */
static inline float embarq_erf(float x)
{
    const float size = x < 0.0f ? -x : x;
    if (size < 0.3f) {
        const float x2 = x * x;
        return 1.12837917f * x * (1.0f - x2 * (1.0f / 3.0f - x2 * (0.1f - x2 * (1.0f / 42.0f - x2 * (1.0f / 216.0f)))));
    }
    const float t = 1.0f / (1.0f + 0.3275911f * size);
    const float poly = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const float value = 1.0f - poly * __builtin_expf(-x * x);
    return x < 0.0f ? -value : value;
}

#endif
