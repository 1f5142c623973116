/* int8 addition of equal shapes with LiteRT's own three roundings, where no single linear form gives the same (add_s8_dsp.c). */
#include "embarq_kernels.h"
#include "fixed.h"

#if defined(__ARM_FEATURE_DSP)

/* round(x * mult / 2^32), halves up */
static inline int32_t high(int32_t x, int32_t mult)
{
    int32_t result;
    __asm__("smmulr %0, %1, %2" : "=r"(result) : "r"(x), "r"(mult));
    return result;
}

typedef struct {
    int32_t mult, half, below, exponent; /* below: -1 where a negative value rounds away from zero, 0 for exponent 0 */
} scale;

static scale scale_of(int32_t mult, int32_t shift)
{
    const int32_t exponent = -shift;
    const scale s = {mult, (int32_t)((UINT32_C(1) << exponent) >> 1), exponent > 0 ? -1 : 0, exponent};
    return s;
}

/* x / 2 rescaled: |x| < 2^31 takes the doubling of LiteRT's high multiplication with it */
static inline int32_t rescaled(int32_t x, const scale *s)
{
    const int32_t product = high(x, s->mult);
    return (product + s->half + ((product >> 31) & s->below)) >> s->exponent;
}

void embarq_add_exact_s8_dsp(const void *params, const embarq_memory *memory)
{
    const embarq_arithmetic_int_params *p = params;
    const int8_t *a = embarq_source_at(memory, &p->a), *b = embarq_source_at(memory, &p->b);
    int8_t *out = embarq_at(memory, p->output);
    const scale sa = scale_of(p->a_mult, p->a_shift), sb = scale_of(p->b_mult, p->b_shift), so = scale_of(p->out_mult, p->out_shift);
    const int32_t *shape = p->broadcast.shape, count = shape[0] * shape[1] * shape[2] * shape[3];
    const int32_t a_zero = p->a_zero_point, b_zero = p->b_zero_point, zero = p->out_zero_point, low = p->low, top = p->high;
    const int32_t up = 2 << p->left_shift, sign = p->sign;

    for (int32_t i = 0; i < count; i++) {
        const int32_t sum = rescaled((a[i] - a_zero) * up, &sa) + sign * rescaled((b[i] - b_zero) * up, &sb);
        out[i] = (int8_t)embarq_clamp(rescaled(sum * 2, &so) + zero, low, top);
    }
}

#endif
