/* Two int8 or int16 tensors, element by element with broadcasting, as LiteRT's reference computes them. */
#include "broadcast.h"
#include "exponential.h"
#include "values.h"

typedef int32_t operation(const embarq_arithmetic_int_params *p, int32_t a, int32_t b); /* operands without zero points */

static void each(const embarq_arithmetic_int_params *p, const embarq_memory *memory, operation *compute)
{
    const void *a = embarq_source_at(memory, &p->a), *b = embarq_source_at(memory, &p->b);
    void *out = embarq_at(memory, p->output);
    int32_t at = 0;

    EMBARQ_BROADCAST(&p->broadcast, at_a, at_b, {
        const int32_t value = compute(p, embarq_load(a, at_a, p->item) - p->a_zero_point, embarq_load(b, at_b, p->item) - p->b_zero_point);
        embarq_store(out, at++, p->item, embarq_clamp(value + p->out_zero_point, p->low, p->high));
    })
}

static int32_t add(const embarq_arithmetic_int_params *p, int32_t a, int32_t b)
{
    const int32_t left = embarq_rescale(a * (1 << p->left_shift), p->a_mult, p->a_shift);
    const int32_t right = embarq_rescale(b * (1 << p->left_shift), p->b_mult, p->b_shift);
    return embarq_rescale(left + p->sign * right, p->out_mult, p->out_shift);
}

static int32_t squared_difference(const embarq_arithmetic_int_params *p, int32_t a, int32_t b)
{
    const int32_t left = embarq_rescale(a * (1 << p->left_shift), p->a_mult, p->a_shift);
    const int32_t right = embarq_rescale(b * (1 << p->left_shift), p->b_mult, p->b_shift);
    return embarq_rescale((left - right) * (left - right), p->out_mult, p->out_shift);
}

static int32_t multiply(const embarq_arithmetic_int_params *p, int32_t a, int32_t b)
{
    return embarq_rescale(a * b, p->out_mult, p->out_shift);
}

static int32_t divide(const embarq_arithmetic_int_params *p, int32_t a, int32_t b)
{
    const int32_t over = b < 0 ? -a : a, under = b < 0 ? -b : b;
    if (under == 0) {
        return over > 0 ? 1 << 20 : over < 0 ? -(1 << 20) : 0;
    }
    const int32_t places = embarq_leading_zeros((uint32_t)under);
    const int32_t inverse = embarq_reciprocal_one_plus((int32_t)(((uint32_t)under << places) - UINT32_C(0x80000000)));
    const int32_t headroom = embarq_leading_zeros((uint32_t)(over < 0 ? ~over : over)) - 1;
    const int32_t quotient = embarq_high_mul(embarq_high_mul((int32_t)((uint32_t)over << headroom), inverse), p->out_mult);
    const int32_t shift = p->out_shift - (31 - places) - headroom;
    if (shift > 0) { /* far outside the output's range already, where it does not fit */
        const int64_t wide = (int64_t)quotient * (INT64_C(1) << embarq_min(shift, 30));
        return wide > 1 << 20 ? 1 << 20 : wide < -(1 << 20) ? -(1 << 20) : (int32_t)wide;
    }
    return shift < -31 ? 0 : embarq_divide_pot(quotient, -shift);
}

static int32_t larger(const embarq_arithmetic_int_params *p, int32_t a, int32_t b)
{
    (void)p;
    return embarq_max(a, b);
}

static int32_t smaller(const embarq_arithmetic_int_params *p, int32_t a, int32_t b)
{
    (void)p;
    return embarq_min(a, b);
}

void embarq_add_int(const void *params, const embarq_memory *memory)
{
    each(params, memory, add);
}

void embarq_squared_difference_int(const void *params, const embarq_memory *memory)
{
    each(params, memory, squared_difference);
}

void embarq_mul_int(const void *params, const embarq_memory *memory)
{
    each(params, memory, multiply);
}

void embarq_div_int(const void *params, const embarq_memory *memory)
{
    each(params, memory, divide);
}

void embarq_maximum_int(const void *params, const embarq_memory *memory)
{
    each(params, memory, larger);
}

void embarq_minimum_int(const void *params, const embarq_memory *memory)
{
    each(params, memory, smaller);
}
