/* int8 addition and subtraction with broadcasting, as LiteRT's reference does it. */
#include "embarq_kernels.h"
#include "fixed.h"

static int8_t one(const embarq_add_s8_params *p, int32_t a, int32_t b)
{
    const int32_t left = embarq_rescale((a - p->a_zero_point) * (1 << p->left_shift), p->a_mult, p->a_shift);
    const int32_t right = embarq_rescale((b - p->b_zero_point) * (1 << p->left_shift), p->b_mult, p->b_shift);
    const int32_t scaled = embarq_rescale(left + p->sign * right, p->out_mult, p->out_shift);
    return (int8_t)embarq_clamp(scaled + p->out_zero_point, p->low, p->high);
}

void embarq_add_s8(const void *params, const embarq_memory *memory)
{
    const embarq_add_s8_params *p = params;
    const embarq_broadcast *s = &p->broadcast;
    const int8_t *a = embarq_source_at(memory, &p->a), *b = embarq_source_at(memory, &p->b);
    int8_t *out = embarq_at(memory, p->output);

    for (int32_t i = 0; i < s->shape[0]; i++) {
        for (int32_t j = 0; j < s->shape[1]; j++) {
            for (int32_t k = 0; k < s->shape[2]; k++) {
                const int8_t *x = a + i * s->stride_a[0] + j * s->stride_a[1] + k * s->stride_a[2];
                const int8_t *y = b + i * s->stride_b[0] + j * s->stride_b[1] + k * s->stride_b[2];
                for (int32_t l = 0; l < s->shape[3]; l++) {
                    *out++ = one(p, x[l * s->stride_a[3]], y[l * s->stride_b[3]]);
                }
            }
        }
    }
}
