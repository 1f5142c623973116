/* Products of int8 or int16 matrices, both activations. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "values.h"

static int64_t dot(const embarq_batch_matmul_int_params *p, const void *a, int32_t at_a, const void *b, int32_t at_b)
{
    int64_t total = 0;
    for (int32_t i = 0; i < p->depth; i++, at_a += p->a_depth, at_b += p->b_depth) {
        total += (embarq_load(a, at_a, p->item) - p->a_zero_point) * (embarq_load(b, at_b, p->item) - p->b_zero_point);
    }
    return total;
}

void embarq_batch_matmul_int(const void *params, const embarq_memory *memory)
{
    const embarq_batch_matmul_int_params *p = params;
    const void *a = embarq_source_at(memory, &p->a), *b = embarq_source_at(memory, &p->b);
    void *out = embarq_at(memory, p->output); /* [batch][rows][columns] */
    int32_t next = 0;

    for (int32_t n = 0; n < p->batch; n++) {
        for (int32_t row = 0; row < p->rows; row++) {
            for (int32_t column = 0; column < p->columns; column++) {
                const int64_t total = dot(p, a, n * p->a_batch + row * p->a_row, b, n * p->b_batch + column * p->b_column);
                const int32_t scaled = p->item == 1 ? embarq_rescale((int32_t)total, p->mult, p->shift) : embarq_rescale_64(total, p->mult, p->shift);
                embarq_store(out, next++, p->item, embarq_clamp(scaled + p->out_zero_point, p->low, p->high));
            }
        }
    }
}
