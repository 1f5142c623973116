/* int8 softmax in fixed point, exact to LiteRT's reference. */
#include "embarq_kernels.h"
#include "exponential.h"

/* exp of a value `diff` below the row's maximum, in F0 */
static int32_t power(const embarq_softmax_s8_params *p, int32_t diff)
{
    return embarq_exp_negative(embarq_rescale(diff, p->mult, p->shift));
}

static void row(const embarq_softmax_s8_params *p, const int8_t *in, int8_t *out)
{
    int32_t most = INT8_MIN, sum = 0; /* sum in F12 */
    for (int32_t i = 0; i < p->depth; i++) {
        most = embarq_max(most, in[i]);
    }
    for (int32_t i = 0; i < p->depth; i++) {
        if (in[i] - most >= p->diff_min) {
            sum += embarq_divide_pot(power(p, in[i] - most), 12);
        }
    }
    const int32_t headroom = embarq_leading_zeros((uint32_t)sum);
    const int32_t scale = embarq_reciprocal_one_plus((int32_t)(((uint32_t)sum << headroom) - UINT32_C(0x80000000)));
    for (int32_t i = 0; i < p->depth; i++) {
        int32_t value = INT8_MIN;
        if (in[i] - most >= p->diff_min) {
            value += embarq_divide_pot(embarq_high_mul(scale, power(p, in[i] - most)), 12 - headroom + 31 - 8);
        }
        out[i] = (int8_t)embarq_min(value, INT8_MAX);
    }
}

void embarq_softmax_s8(const void *params, const embarq_memory *memory)
{
    const embarq_softmax_s8_params *p = params;
    const int8_t *in = embarq_at(memory, p->input);
    int8_t *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->rows; i++, in += p->depth, out += p->depth) {
        row(p, in, out);
    }
}
