/* Integer arithmetic of LiteRT's reference kernels, shared by every quantised kernel. */
#ifndef EMBARQ_FIXED_H
#define EMBARQ_FIXED_H

#include <stdint.h>

/* round(a * b / 2^31), halves up, as gemmlowp's SaturatingRoundingDoublingHighMul for every a when b > INT32_MIN. */
static inline int32_t embarq_high_mul(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* round(x / 2^exponent), halves away from zero; exponent in [0, 31]. */
static inline int32_t embarq_divide_pot(int32_t x, int32_t exponent)
{
    const int32_t mask = (int32_t)((UINT32_C(1) << exponent) - 1u);
    const int32_t remainder = x & mask;
    return (x >> exponent) + (remainder > (mask >> 1) + (x < 0));
}

/* x * mult / 2^31 * 2^shift, rounded twice; shift > 0 is to the left, and wraps as int32. */
static inline int32_t embarq_rescale(int32_t x, int32_t mult, int32_t shift)
{
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    return embarq_divide_pot(embarq_high_mul((int32_t)((uint32_t)x << left), mult), right);
}

/* The same rounded once, halves away from zero; shift <= 30. The result must fit int32. */
static inline int32_t embarq_rescale_once(int32_t x, int32_t mult, int32_t shift)
{
    const int64_t product = (int64_t)x * mult;
    return (int32_t)((product + (INT64_C(1) << (30 - shift)) - (product < 0)) >> (31 - shift));
}

/* The same for a 64-bit sum, which is cut to 32 bits first (far beyond any 16-bit output). */
static inline int64_t embarq_rescale_once_64(int64_t x, int32_t mult, int32_t shift)
{
    const int64_t limit = INT32_MAX;
    const int64_t product = (x > limit ? limit : x < -limit ? -limit : x) * mult;
    return (product + (INT64_C(1) << (30 - shift)) - (product < 0)) >> (31 - shift);
}

/* x * mult / 2^15 * 2^shift of a 64-bit sum with a multiplier of 16 bits, rounded once, halves up. */
static inline int32_t embarq_rescale_64(int64_t x, int32_t mult, int32_t shift)
{
    return (int32_t)((x * mult + (INT64_C(1) << (14 - shift))) >> (15 - shift));
}

static inline int32_t embarq_clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}

static inline int32_t embarq_max(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static inline int32_t embarq_min(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* round(x / scale) + zero_point, halves away from zero, clamped; NaN gives the zero point. */
static inline int32_t embarq_quantise(float x, float scale, int32_t zero_point, int32_t low, int32_t high)
{
    const float steps = x / scale;
    if (!(steps > -2147483520.0f)) { /* also NaN */
        return steps < 0.0f ? low : embarq_clamp(zero_point, low, high);
    }
    if (steps > 2147483520.0f) {
        return high;
    }
    const int32_t whole = (int32_t)steps; /* cut towards zero; the rest is exact */
    const float rest = steps - (float)whole;
    const int64_t value = (int64_t)whole + (rest >= 0.5f) - (rest <= -0.5f) + zero_point;
    return (int32_t)(value < low ? low : value > high ? high : value);
}

#endif
