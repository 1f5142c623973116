/* int8 log_softmax in fixed point, exact to LiteRT's reference: output scale 1/16, zero point 127. */
#include "embarq_kernels.h"
#include "exponential.h"

enum { DIFF_BITS = 5, SUM_BITS = 12 };

static int32_t saturated(int64_t x)
{
    return (int32_t)(x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : x);
}

/* log(x) in F5 of x >= 1 in F12: x = 2^k r, then a rational function of r */
static int32_t log_sum(int32_t total)
{
    const int32_t sqrt_half = 1518500250, sqrt_sqrt_half = 1805811301, log_2 = 1488522236;
    const int32_t bits = 31 - DIFF_BITS - 1, quarter = 1 << (31 - 2 - DIFF_BITS - 1);
    const int32_t headroom = embarq_leading_zeros((uint32_t)total);
    const int32_t headroom_b = embarq_leading_zeros((uint32_t)embarq_high_mul(total, sqrt_half)) - 1;
    const int32_t r_a = embarq_shift_saturated(embarq_high_mul(saturated((int64_t)total << (headroom - 1)), sqrt_half), 1);
    const int32_t r_b = saturated((int64_t)total << headroom_b);
    const int64_t one = INT64_C(1) << bits;
    const int32_t power_a = saturated((int64_t)saturated((SUM_BITS - headroom) * one) + quarter);
    const int32_t power_b = saturated((int64_t)saturated((SUM_BITS - headroom_b) * one) - quarter);
    const int32_t r = embarq_min(r_a, r_b), power = embarq_max(power_a, power_b);

    const int32_t half_sum = (int32_t)(((int64_t)r + sqrt_sqrt_half + 1) >> 1);
    const int32_t q = (r - sqrt_sqrt_half) * 2, square = embarq_high_mul(q, q);
    const int32_t over = embarq_high_mul(q, r) + embarq_high_mul(embarq_high_mul(q, square), 117049297);
    const int32_t under = embarq_high_mul(half_sum, 1057819769 + q + embarq_high_mul(127690142, square)) + embarq_high_mul(638450708, q);
    const int32_t ratio = embarq_high_mul(embarq_divide_pot(over, DIFF_BITS + 1), embarq_reciprocal_one_plus(under));
    return embarq_shift_saturated(embarq_high_mul(power, log_2) + ratio, 1);
}

static void row(const embarq_log_softmax_s8_params *p, const int8_t *in, int8_t *out)
{
    int32_t most = INT8_MIN, sum = 0;
    for (int32_t i = 0; i < p->depth; i++) {
        most = embarq_max(most, in[i]);
    }
    for (int32_t i = 0; i < p->depth; i++) {
        if (in[i] - most >= p->diff_min) {
            sum += embarq_divide_pot(embarq_exp_negative(embarq_rescale(in[i] - most, p->mult, p->shift)), SUM_BITS);
        }
    }
    const int32_t log_total = log_sum(sum);
    const int32_t back = embarq_rescale((int32_t)((uint32_t)log_total + UINT32_C(0x80000000)), p->back_mult, p->back_shift);
    const int32_t lowest = embarq_max(p->diff_min - 1, back);
    for (int32_t i = 0; i < p->depth; i++) {
        int32_t value = INT8_MIN;
        if (in[i] - most > lowest) {
            const int32_t fine = embarq_rescale(in[i] - most, p->mult, p->shift);
            value = embarq_divide_pot((int32_t)((uint32_t)fine - (uint32_t)log_total), 31 - DIFF_BITS - 4) + 127;
        }
        out[i] = (int8_t)embarq_clamp(value, INT8_MIN, INT8_MAX);
    }
}

void embarq_log_softmax_s8(const void *params, const embarq_memory *memory)
{
    const embarq_log_softmax_s8_params *p = params;
    const int8_t *in = embarq_at(memory, p->input);
    int8_t *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->rows; i++, in += p->depth, out += p->depth) {
        row(p, in, out);
    }
}
