/* Gradient of a mean over height and width: the same for every pixel. */
#include "embarq_kernels.h"

void embarq_mean_grad(const void *params, const embarq_memory *memory)
{
    const embarq_mean_grad_params *p = params;
    const float *in = embarq_at(memory, p->input); /* [batch][channels] */
    float *out = embarq_at(memory, p->output);     /* [batch][pixels][channels] */
    const float share = 1.0f / (float)p->pixels;
    for (int32_t n = 0; n < p->batch; n++, in += p->channels) {
        for (int32_t pixel = 0; pixel < p->pixels; pixel++) {
            for (int32_t c = 0; c < p->channels; c++) {
                *out++ = in[c] * share;
            }
        }
    }
}
