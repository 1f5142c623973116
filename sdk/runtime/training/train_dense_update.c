/* A step of a dense layer's weights on one row: the input times each channel's gradient. */
#include "learn.h"

enum { BLOCK = 16 };

/* w -= rate * g * x */
static void plain(const embarq_learner *learner, int32_t index, float g, const float *x, int32_t depth)
{
    float *w = learner->f32 + index;
    const float back = -learner->rate * g;
    int32_t i = 0;
    for (; i + 4 <= depth; i += 4, w += 4, x += 4) {
        const float a = w[0], b = w[1], c = w[2], d = w[3];
        w[0] = embarq_fma(back, x[0], a);
        w[1] = embarq_fma(back, x[1], b);
        w[2] = embarq_fma(back, x[2], c);
        w[3] = embarq_fma(back, x[3], d);
    }
    for (; i < depth; i++, w++) {
        *w = embarq_fma(back, *x++, *w);
    }
}

void embarq_train_dense_update(const void *params, const embarq_memory *memory)
{
    const embarq_train_dense_update_params *p = params;
    const embarq_learner learner = embarq_learner_of(memory, &p->learn);
    const float *x = embarq_at(memory, p->input), *dy = embarq_at(memory, p->dy);
    for (int32_t o = 0; o < p->channels; o++) {
        const int32_t index = o * p->depth;
        if (embarq_is_plain(&learner)) {
            plain(&learner, index, dy[o], x, p->depth);
            continue;
        }
        for (int32_t i = 0; i < p->depth; i += BLOCK) {
            const int32_t count = p->depth - i < BLOCK ? p->depth - i : BLOCK;
            float g[BLOCK];
            for (int32_t k = 0; k < count; k++) {
                g[k] = dy[o] * x[i + k];
            }
            embarq_take_step(&learner, index + i, count, o, g);
        }
    }
}
