/* A gradient where the mask's bit is 1, else 0. Floats are moved as words: nothing is computed. */
#include "embarq_kernels.h"

void embarq_mask_grad(const void *params, const embarq_memory *memory)
{
    const embarq_mask_grad_params *p = params;
    const uint32_t *in = embarq_at(memory, p->input);
    const uint8_t *mask = embarq_at(memory, p->mask);
    uint32_t *out = embarq_at(memory, p->output);
    int32_t i = 0;
    for (; i + 8 <= p->count; i += 8, in += 8, out += 8) {
        const uint32_t bits = *mask++;
        for (int32_t k = 0; k < 8; k++) {
            out[k] = in[k] & (0u - (bits >> k & 1u));
        }
    }
    for (int32_t k = 0; i + k < p->count; k++) {
        out[k] = in[k] & (0u - ((uint32_t)*mask >> k & 1u));
    }
}
