/* A tensor times a matrix along one axis. */
#include "embarq_kernels.h"
#include "real_fma.h"

void embarq_mode_product(const void *params, const embarq_memory *memory)
{
    const embarq_mode_product_params *p = params;
    const float *in = embarq_at(memory, p->input), *matrix = embarq_source_at(memory, &p->matrix);
    float *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < p->outer; n++, in += p->depth * p->inner) {
        for (int32_t l = 0; l < p->length; l++) {
            for (int32_t i = 0; i < p->inner; i++) {
                float total = 0.0f;
                for (int32_t d = 0; d < p->depth; d++) {
                    total = embarq_fma(in[d * p->inner + i], matrix[l * p->step_length + d * p->step_depth], total);
                }
                *out++ = total;
            }
        }
    }
}
