/* A step of a bias: its gradient is the sum of the outputs' gradients. */
#include "learn.h"

/* Ones among `count` bits from number `first` on. */
static int32_t ones(const uint8_t *mask, int32_t first, int32_t count)
{
    int32_t total = 0;
    for (int32_t i = first; i < first + count; i++) {
        total += mask[i >> 3] >> (i & 7) & 1;
    }
    return total;
}

void embarq_bias_update(const void *params, const embarq_memory *memory)
{
    const embarq_bias_update_params *p = params;
    const embarq_learner learner = embarq_learner_of(memory, &p->learn);
    const float *dy = embarq_at(memory, p->dy); /* [rows][channels] */
    const uint8_t *mask = embarq_at(memory, p->mask);
    for (int32_t c = 0; c < p->channels; c++) {
        float total = 0.0f;
        for (int32_t row = 0; row < p->rows; row++) {
            const int32_t at = row * p->channels + c;
            total += p->has_mask ? dy[at] * (float)ones(mask, at * p->pixels, p->pixels) / (float)p->pixels : dy[at];
        }
        embarq_take_step(&learner, c, 1, c, &total);
    }
}
