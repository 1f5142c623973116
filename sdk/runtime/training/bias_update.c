/* A step of a bias: its gradient is the sum of the outputs' gradients. */
#include "bits.h"
#include "learn.h"

enum { LANES = 4 };

/* How many of a channel's pixels its mask leaves open. */
static int32_t open_pixels(const uint8_t *mask, int32_t first, int32_t pixels)
{
    enum { MOST = 24 };
    int32_t total = 0;
    for (; pixels > 0; pixels -= MOST, first += MOST) {
        total += embarq_ones(embarq_bits(mask, first, pixels < MOST ? pixels : MOST));
    }
    return total;
}

/* g[0..count) of channels from c, count <= 4 */
static void from_map(const embarq_bias_update_params *p, const float *dy, int32_t c, int32_t count, float *g)
{
    const float *at = dy + c;
    float a = 0.0f, b = 0.0f, d = 0.0f, e = 0.0f;
    for (int32_t row = 0; count == LANES && row < p->rows; row++, at += p->channels) {
        a += at[0];
        b += at[1];
        d += at[2];
        e += at[3];
    }
    g[0] = a;
    g[1] = b;
    g[2] = d;
    g[3] = e;
    for (int32_t row = 0; count < LANES && row < p->rows; row++, at += p->channels) {
        for (int32_t i = 0; i < count; i++) {
            g[i] += at[i];
        }
    }
}

/* The same where dy is the gradient of a mean over masked pixels. */
static void from_mean(const embarq_bias_update_params *p, const float *dy, const uint8_t *mask, int32_t c, int32_t count, float *g)
{
    const float share = 1.0f / (float)p->pixels;
    for (int32_t i = 0; i < count; i++) {
        g[i] = 0.0f;
        for (int32_t row = 0; row < p->rows; row++) {
            const int32_t at = row * p->channels + c + i;
            g[i] += dy[at] * share * (float)open_pixels(mask, at * p->pixels, p->pixels);
        }
    }
}

void embarq_bias_update(const void *params, const embarq_memory *memory)
{
    const embarq_bias_update_params *p = params;
    const embarq_learner learner = embarq_learner_of(memory, &p->learn);
    const float *dy = embarq_at(memory, p->dy); /* [rows][channels] */
    const uint8_t *mask = embarq_at(memory, p->mask);
    for (int32_t c = 0; c < p->channels; c += LANES) {
        const int32_t count = p->channels - c < LANES ? p->channels - c : LANES;
        float g[LANES];
        if (p->has_mask) {
            from_mean(p, dy, mask, c, count, g);
        } else {
            from_map(p, dy, c, count, g);
        }
        embarq_take_step(&learner, c, count, c, g);
    }
}
