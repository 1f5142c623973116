/* int8 PReLU: one multiplier for values at or above zero, another for the product with alpha below. */
#include "broadcast.h"
#include "fixed.h"

void embarq_prelu_s8(const void *params, const embarq_memory *memory)
{
    const embarq_prelu_s8_params *p = params;
    const int8_t *x = embarq_source_at(memory, &p->a), *alpha = embarq_source_at(memory, &p->b);
    int8_t *out = embarq_at(memory, p->output);

    EMBARQ_BROADCAST(&p->broadcast, at_x, at_alpha, {
        const int32_t value = x[at_x] - p->a_zero_point;
        const int32_t scaled = value >= 0 ? embarq_rescale(value, p->same_mult, p->same_shift)
                                          : embarq_rescale(value * (alpha[at_alpha] - p->b_zero_point), p->less_mult, p->less_shift);
        *out++ = (int8_t)embarq_clamp(scaled + p->out_zero_point, INT8_MIN, INT8_MAX);
    })
}
