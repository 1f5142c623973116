/* Layer normalisation of int8 or int16 rows: exact integer sums, then float32 in the order the interpreter has. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "values.h"

void embarq_layer_norm_int(const void *params, const embarq_memory *memory)
{
    const embarq_layer_norm_int_params *p = params;
    const void *in = embarq_at(memory, p->input);
    void *out = embarq_at(memory, p->output);
    const int32_t n = p->depth, low = p->item == 1 ? INT8_MIN : INT16_MIN, high = p->item == 1 ? INT8_MAX : INT16_MAX;

    for (int32_t row = 0; row < p->rows; row++) {
        int64_t total = 0, squares = 0;
        for (int32_t i = 0; i < n; i++) {
            const int32_t d = embarq_load(in, row * n + i, p->item) - p->in_zero_point;
            total += d;
            squares += (int64_t)d * d;
        }
        const float spread = (float)(n * squares - total * total) / (float)((int64_t)n * n);
        const float scale2 = p->in_scale * p->in_scale;
        const float inverse = 1.0f / __builtin_sqrtf(spread * scale2 + p->eps);
        for (int32_t i = 0; i < n; i++) {
            const int64_t d = embarq_load(in, row * n + i, p->item) - p->in_zero_point;
            const float centred = (float)(n * d - total) / (float)n * p->in_scale * inverse;
            const float y = centred * p->gamma[i] + p->beta[i];
            embarq_store(out, row * n + i, p->item, embarq_quantise(y, p->out_scale, p->out_zero_point, low, high));
        }
    }
}
