/* Where an activation let its input through: eight values to a byte. */
#include "bits.h"
#include "embarq_kernels.h"

void embarq_pack_mask(const void *params, const embarq_memory *memory)
{
    const embarq_pack_mask_params *p = params;
    const uint32_t *in = embarq_at(memory, p->input); /* the bits of floats */
    uint8_t *out = embarq_at(memory, p->output);
    const union {
        float value;
        uint32_t bits;
    } high = {p->high};
    for (int32_t i = 0; i < p->count; i += 8, in += 8) {
        const int32_t count = p->count - i < 8 ? p->count - i : 8;
        uint32_t bits = 0;
        if (count == 8) {
            for (int32_t k = 0; k < 8; k++) {
                bits |= embarq_is_open(in[k], high.bits) << k;
            }
        } else {
            for (int32_t k = 0; k < count; k++) {
                bits |= embarq_is_open(in[k], high.bits) << k;
            }
        }
        *out++ = (uint8_t)bits;
    }
}
