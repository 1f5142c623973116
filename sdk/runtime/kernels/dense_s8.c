/* int8 fully connected layer in portable C. LiteRT rounds it once, unlike convolutions. */
#include "embarq_kernels.h"
#include "fixed.h"

void embarq_dense_s8(const void *params, const embarq_memory *memory)
{
    const embarq_dense_s8_params *p = params;
    const embarq_requant *q = &p->requant;
    const int8_t *in = embarq_at(memory, p->input); /* [rows][depth] */
    int8_t *out = embarq_at(memory, p->output);     /* [rows][channels] */

    for (int32_t row = 0; row < p->rows; row++, in += p->depth) {
        const int8_t *weight = p->weights;
        for (int32_t c = 0; c < p->channels; c++, weight += p->depth) {
            int32_t total = p->bias[c];
            for (int32_t i = 0; i < p->depth; i++) {
                total += (in[i] - p->input_zero_point) * (weight[i] - p->weight_zero_point);
            }
            const int32_t scaled = embarq_rescale_once(total, q->mult[c], q->shift[c]);
            *out++ = (int8_t)embarq_clamp(scaled + q->zero_point, q->low, q->high);
        }
    }
}
