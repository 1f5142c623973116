/* A step of the fused head's weights: a channel's gradient is the sum of the pixels its mask leaves open, times its share. */
#include "learn.h"
#include "real_fma.h"
#include "tile.h"

/* sums[0..depth) += the open pixels of x [pixels][depth], times g */
static void add_open(const float *x, int32_t depth, const uint8_t *mask, int32_t bit, int32_t pixels, float g, float *sums)
{
    for (int32_t p = 0; p < pixels; p++, bit++, x += depth) {
        if (mask[bit >> 3] >> (bit & 7) & 1) {
            for (int32_t k = 0; k < depth; k++) {
                sums[k] = embarq_fma(g, x[k], sums[k]);
            }
        }
    }
}

static void step_restored(const embarq_train_head_update_params *p, const embarq_view *basis, const embarq_learner *learner, int32_t o, const float *kept,
                          float *wide)
{
    for (int32_t c = 0; c < p->depth; c++) {
        float total = 0.0f;
        for (int32_t k = 0; k < p->in_c; k++) {
            total = embarq_fma(kept[k] * (basis->scales ? basis->scales[k] : 1.0f), embarq_view_at(basis, k * p->depth + c), total);
        }
        wide[c] = total;
    }
    embarq_take_step(learner, o * p->depth, p->depth, o, wide);
}

void embarq_train_head_update(const void *params, const embarq_memory *memory)
{
    const embarq_train_head_update_params *p = params;
    const embarq_view basis = embarq_view_of(memory, &p->basis);
    const embarq_learner learner = embarq_learner_of(memory, &p->learn);
    const float *x = embarq_at(memory, p->input), *dy = embarq_at(memory, p->dy);
    const uint8_t *mask = embarq_at(memory, p->mask);
    float *sums = embarq_at(memory, p->scratch);
    const float share = 1.0f / (float)p->pixels;

    for (int32_t o = 0; o < p->out_c; o++) {
        for (int32_t k = 0; k < p->in_c; k++) {
            sums[k] = 0.0f;
        }
        for (int32_t n = 0; n < p->batch; n++) {
            const int32_t at = n * p->out_c + o;
            add_open(x + n * p->pixels * p->in_c, p->in_c, mask, at * p->pixels, p->pixels, dy[at] * share, sums);
        }
        if (p->has_basis) {
            step_restored(p, &basis, &learner, o, sums, sums + p->in_c);
        } else {
            embarq_take_step(&learner, o * p->depth, p->depth, o, sums);
        }
    }
}
