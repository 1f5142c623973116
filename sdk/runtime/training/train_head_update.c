/* A step of the fused head's weights: a channel's gradient is the sum of the pixels its mask leaves open, times its share. */
#include "bits.h"
#include "learn.h"
#include "tile.h"

/* sums[0..depth) += the open ones of `pixels` <= 24 pixels of x [pixels][depth], times g */
static void add_open(const float *x, int32_t depth, uint32_t open, float g, float *sums)
{
    for (; open; open >>= 1, x += depth) {
        int32_t k = 0;
        if (!(open & 1u)) {
            continue;
        }
        for (; k + 4 <= depth; k += 4) {
            const float a = x[k], b = x[k + 1], c = x[k + 2], d = x[k + 3];
            sums[k] = embarq_fma(g, a, sums[k]);
            sums[k + 1] = embarq_fma(g, b, sums[k + 1]);
            sums[k + 2] = embarq_fma(g, c, sums[k + 2]);
            sums[k + 3] = embarq_fma(g, d, sums[k + 3]);
        }
        for (; k < depth; k++) {
            sums[k] = embarq_fma(g, x[k], sums[k]);
        }
    }
}

static void add_sample(const embarq_train_head_update_params *p, const float *x, const uint8_t *mask, int32_t bit, float g, float *sums)
{
    enum { MOST = 24 };
    for (int32_t first = 0; first < p->pixels; first += MOST) {
        const int32_t count = p->pixels - first < MOST ? p->pixels - first : MOST;
        add_open(x + first * p->in_c, p->in_c, embarq_bits(mask, bit + first, count), g, sums);
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
            add_sample(p, x + n * p->pixels * p->in_c, mask, at * p->pixels, dy[at] * share, sums);
        }
        if (p->has_basis) {
            step_restored(p, &basis, &learner, o, sums, sums + p->in_c);
        } else {
            embarq_take_step(&learner, o * p->depth, p->depth, o, sums);
        }
    }
}
