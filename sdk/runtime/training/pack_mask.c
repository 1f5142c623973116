/* Where an activation let its input through: eight values to a byte. */
#include "embarq_kernels.h"

void embarq_pack_mask(const void *params, const embarq_memory *memory)
{
    const embarq_pack_mask_params *p = params;
    const float *in = embarq_at(memory, p->input);
    uint8_t *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->count; i += 8) {
        const int32_t count = p->count - i < 8 ? p->count - i : 8;
        uint32_t bits = 0;
        for (int32_t k = count - 1; k >= 0; k--) {
            bits = bits << 1 | (in[i + k] > 0.0f && in[i + k] < p->high);
        }
        *out++ = (uint8_t)bits;
    }
}
