/* Sums, means and maxima of int8 or int16 values over axes, and the place of the largest value. */
#include "fixed.h"
#include "reduce.h"
#include "values.h"

/* sum and mean: the division is part of mult */
void embarq_sum_int(const void *params, const embarq_memory *memory)
{
    const embarq_reduce_int_params *p = params;
    const embarq_reduction *r = &p->reduction;
    const void *in = embarq_at(memory, p->input);
    void *out = embarq_at(memory, p->output);
    const int32_t count = r->inner[0] * r->inner[1] * r->inner[2];
    for (int32_t n = 0; n < embarq_reduce_count(r); n++) {
        int32_t total = -p->in_zero_point * count;
        EMBARQ_REDUCE(r, n, at, { total += embarq_load(in, at, p->item); })
        const int32_t scaled = embarq_rescale(total, p->mult, p->shift);
        embarq_store(out, n, p->item, embarq_clamp(scaled + p->out_zero_point, p->low, p->high));
    }
}

void embarq_reduce_max_int(const void *params, const embarq_memory *memory)
{
    const embarq_reduce_int_params *p = params;
    const embarq_reduction *r = &p->reduction;
    const void *in = embarq_at(memory, p->input);
    void *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < embarq_reduce_count(r); n++) {
        int32_t best = INT16_MIN;
        EMBARQ_REDUCE(r, n, at, { best = embarq_max(best, embarq_load(in, at, p->item)); })
        embarq_store(out, n, p->item, best);
    }
}

void embarq_argmax_int(const void *params, const embarq_memory *memory)
{
    const embarq_argmax_params *p = params;
    const embarq_reduction *r = &p->reduction;
    const void *in = embarq_at(memory, p->input);
    int32_t *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < embarq_reduce_count(r); n++) {
        int32_t best = INT32_MIN, place = 0, here = 0;
        EMBARQ_REDUCE(r, n, at, {
            const int32_t value = embarq_load(in, at, p->item);
            if (value > best) {
                best = value;
                place = here;
            }
            here++;
        })
        out[n * p->out_words] = place;
        if (p->out_words == 2) { /* int64, and places are never negative */
            out[2 * n + 1] = 0;
        }
    }
}
