/* exp and 1 / (1 + x) in fixed point, bit for bit as gemmlowp computes them.
 *
 * "Fk" is an int32 with k integer bits: raw / 2^(31 - k). A product of Fa and Fb is F(a + b). */
#ifndef EMBARQ_EXPONENTIAL_H
#define EMBARQ_EXPONENTIAL_H

#include "fixed.h"

/* x * 2^bits, saturated */
static inline int32_t embarq_shift_saturated(int32_t x, int32_t bits)
{
    const int32_t limit = (int32_t)(UINT32_C(0x7fffffff) >> bits);
    return x > limit ? INT32_MAX : x < -limit - 1 ? INT32_MIN : (int32_t)((uint32_t)x << bits);
}

/* exp(a) in F0 of a in F0, a in [-1/4, 0): four terms of the series around -1/8 */
static inline int32_t embarq_exp_quarter(int32_t a)
{
    const int32_t exp_eighth = 1895147668, third = 715827883;
    const int32_t x = a + (1 << 28);
    const int32_t x2 = embarq_high_mul(x, x), x3 = embarq_high_mul(x2, x), x4 = embarq_high_mul(x2, x2);
    const int32_t tail = embarq_divide_pot(embarq_high_mul(embarq_divide_pot(x4, 2) + x3, third) + x2, 1);
    return exp_eighth + embarq_high_mul(exp_eighth, x + tail);
}

/* exp(a) in F0 of a in F5, a <= 0 */
static inline int32_t embarq_exp_negative(int32_t a)
{
    /* exp(-2^k) for k = -2 ... 4, in F0 */
    static const int32_t powers[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int32_t quarter = 1 << 24;
    const int32_t part = (a & (quarter - 1)) - quarter;
    const int32_t rest = part - a;
    int32_t result = embarq_exp_quarter((int32_t)((uint32_t)part << 5));
    for (int32_t k = 0; k < 7; k++) {
        if (rest & (1 << (24 + k))) {
            result = embarq_high_mul(result, powers[k]);
        }
    }
    return a == 0 ? INT32_MAX : result;
}

/* 1 / (1 + a) in F0 of a in F0, a in [0, 1): three Newton steps from 48/17 - 32/17 d */
static inline int32_t embarq_reciprocal_one_plus(int32_t a)
{
    const int32_t half = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = 1515870810 + embarq_high_mul(half, -1010580540); /* F2 */
    for (int32_t step = 0; step < 3; step++) {
        const int32_t error = (1 << 29) - embarq_high_mul(half, x);
        x += embarq_shift_saturated(embarq_high_mul(x, error), 2);
    }
    return embarq_shift_saturated(x, 1);
}

/* leading zero bits of x; 32 when it is 0 */
static inline int32_t embarq_leading_zeros(uint32_t x)
{
    int32_t count = 0;
    while (count < 32 && !(x & (UINT32_C(0x80000000) >> count))) {
        count++;
    }
    return count;
}

#endif
