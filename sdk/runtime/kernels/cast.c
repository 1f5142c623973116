/* The same numbers in another type; real numbers are cut towards zero. */
#include "embarq_kernels.h"

static int64_t whole(const void *in, int32_t i, int32_t type)
{
    switch (type) {
    case EMBARQ_INT8:
        return ((const int8_t *)in)[i];
    case EMBARQ_INT16:
        return ((const int16_t *)in)[i];
    case EMBARQ_INT32:
        return ((const int32_t *)in)[i];
    case EMBARQ_INT64:
        return ((const int64_t *)in)[i];
    default: /* uint8, bool */
        return ((const uint8_t *)in)[i];
    }
}

static void put(void *out, int32_t i, int32_t type, int64_t value)
{
    switch (type) {
    case EMBARQ_INT8:
        ((int8_t *)out)[i] = (int8_t)value;
        break;
    case EMBARQ_INT16:
        ((int16_t *)out)[i] = (int16_t)value;
        break;
    case EMBARQ_INT32:
        ((int32_t *)out)[i] = (int32_t)value;
        break;
    case EMBARQ_INT64:
        ((int64_t *)out)[i] = value;
        break;
    case EMBARQ_BOOL:
        ((uint8_t *)out)[i] = value != 0;
        break;
    default:
        ((uint8_t *)out)[i] = (uint8_t)value;
        break;
    }
}

void embarq_cast(const void *params, const embarq_memory *memory)
{
    const embarq_cast_params *p = params;
    const void *in = embarq_at(memory, p->input);
    void *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->count; i++) {
        const float real = p->from == EMBARQ_FLOAT32 ? ((const float *)in)[i] : 0.0f;
        if (p->to == EMBARQ_FLOAT32) {
            ((float *)out)[i] = p->from == EMBARQ_FLOAT32 ? real : (float)whole(in, i, p->from);
        } else if (p->from == EMBARQ_FLOAT32) {
            put(out, i, p->to, p->to == EMBARQ_BOOL ? real != 0.0f : (int64_t)real);
        } else {
            put(out, i, p->to, whole(in, i, p->from));
        }
    }
}
