/* int16 softmax by two tables: the output's scale is 1 / 32768. */
#include "embarq_kernels.h"
#include "exponential.h"
#include "lut16.h"

static int32_t power(const embarq_softmax_s16_params *p, int32_t diff)
{
    const int32_t place = embarq_rescale(diff, p->mult, p->shift) + 32767;
    return embarq_lut16(p->exponentials, embarq_clamp(place, INT16_MIN, INT16_MAX));
}

static void row(const embarq_softmax_s16_params *p, const int16_t *in, int16_t *out)
{
    int32_t most = INT16_MIN, total = 0;
    for (int32_t i = 0; i < p->depth; i++) {
        most = embarq_max(most, in[i]);
    }
    for (int32_t i = 0; i < p->depth; i++) {
        total += power(p, in[i] - most);
    }
    const int32_t headroom = embarq_leading_zeros((uint32_t)total);
    const int32_t fraction = (int32_t)((((int64_t)total << (headroom - 1)) + (1 << 13)) >> 14);
    const int32_t share = embarq_lut16(p->reciprocals, embarq_clamp(fraction - (1 << 15) - (1 << 16), INT16_MIN, INT16_MAX));
    const int32_t right = 31 - headroom;
    for (int32_t i = 0; i < p->depth; i++) {
        const int64_t value = ((int64_t)power(p, in[i] - most) * share + (INT64_C(1) << (right - 1))) >> right;
        out[i] = (int16_t)(value < 0 ? 0 : value > INT16_MAX ? INT16_MAX : value);
    }
}

void embarq_softmax_s16(const void *params, const embarq_memory *memory)
{
    const embarq_softmax_s16_params *p = params;
    const int16_t *in = embarq_at(memory, p->input);
    int16_t *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->rows; i++, in += p->depth, out += p->depth) {
        row(p, in, out);
    }
}
