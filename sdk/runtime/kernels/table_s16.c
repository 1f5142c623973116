/* An int16 function of one int16 value, interpolated. */
#include "embarq_kernels.h"
#include "lut16.h"

void embarq_table_s16(const void *params, const embarq_memory *memory)
{
    const embarq_table_s16_params *p = params;
    const int16_t *in = embarq_at(memory, p->input);
    int16_t *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->count; i++) {
        out[i] = (int16_t)embarq_lut16(p->table, in[i]);
    }
}
