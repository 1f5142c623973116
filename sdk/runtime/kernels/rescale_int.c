/* Integers of one scale to integers of another, and to and from real numbers. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "values.h"

static int32_t load(const void *values, int32_t index, int32_t item)
{
    return item == 4 ? ((const int32_t *)values)[index] : embarq_load(values, index, item);
}

static void store(void *values, int32_t index, int32_t item, int32_t value)
{
    if (item == 4) {
        ((int32_t *)values)[index] = value;
    } else {
        embarq_store(values, index, item, value);
    }
}

/* sum saturated to [low, high] without overflow on the way */
static int32_t offset(int32_t value, int32_t zero_point, int32_t low, int32_t high)
{
    const int64_t sum = (int64_t)value + zero_point;
    return (int32_t)(sum < low ? low : sum > high ? high : sum);
}

void embarq_requantize_int(const void *params, const embarq_memory *memory)
{
    const embarq_requantize_int_params *p = params;
    const void *in = embarq_at(memory, p->input);
    void *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->count; i++) {
        int32_t value = load(in, i, p->in_item) - p->in_zero_point;
        value = p->sign == 2 || (p->sign == 1 && value < 0) ? -value : value;
        store(out, i, p->out_item, offset(embarq_rescale(value, p->mult, p->shift), p->out_zero_point, p->low, p->high));
    }
}

void embarq_quantize_f32(const void *params, const embarq_memory *memory)
{
    const embarq_quantize_params *p = params;
    const float *in = embarq_at(memory, p->real);
    void *out = embarq_at(memory, p->whole);
    for (int32_t i = 0; i < p->count; i++) {
        store(out, i, p->item, embarq_quantise(in[i], p->scale, p->zero_point, p->low, p->high));
    }
}

void embarq_dequantize_int(const void *params, const embarq_memory *memory)
{
    const embarq_quantize_params *p = params;
    const void *in = embarq_at(memory, p->whole);
    float *out = embarq_at(memory, p->real);
    for (int32_t i = 0; i < p->count; i++) {
        out[i] = p->scale * (float)(load(in, i, p->item) - p->zero_point);
    }
}
