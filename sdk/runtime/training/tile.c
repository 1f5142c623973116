/* tile.h */
#include "tile.h"

void embarq_columns(const float *const pixels[EMBARQ_TILE], int32_t depth, const float *scales, float *columns)
{
    for (int32_t p = 0; p < EMBARQ_TILE; p++) {
        const float *in = pixels[p];
        float *out = columns + p;
        if (!in) {
            for (int32_t k = 0; k < depth; k++, out += EMBARQ_TILE) {
                *out = 0.0f;
            }
        } else if (scales) {
            for (int32_t k = 0; k < depth; k++, out += EMBARQ_TILE) {
                *out = in[k] * scales[k];
            }
        } else {
            int32_t k = 0;
            for (; k + 4 <= depth; k += 4, out += 4 * EMBARQ_TILE) {
                const float a = in[k], b = in[k + 1], c = in[k + 2], d = in[k + 3];
                out[0] = a;
                out[EMBARQ_TILE] = b;
                out[2 * EMBARQ_TILE] = c;
                out[3 * EMBARQ_TILE] = d;
            }
            for (; k < depth; k++, out += EMBARQ_TILE) {
                *out = in[k];
            }
        }
    }
}

static void run_pair(const embarq_view *view, const embarq_pair *pair)
{
    if (view->s8) {
        embarq_pair_s8(pair);
    } else {
        embarq_pair_f32(pair);
    }
}

/* The last channel of an odd number: both of the pair are that one, and only one is written. */
static void run_last(const embarq_product *t, embarq_pair pair)
{
    float base[EMBARQ_TILE][EMBARQ_PAIR], out[EMBARQ_TILE][EMBARQ_PAIR];
    for (int32_t p = 0; p < t->pixels; p++) {
        base[p][0] = base[p][1] = t->base[p * t->base_step + t->channels - 1];
    }
    pair.base = base[0];
    pair.out = out[0];
    pair.base_step = pair.out_step = (int32_t)sizeof(out[0]);
    pair.step_n = 0;
    pair.scale[1] = pair.scale[0];
    run_pair(&t->view, &pair);
    for (int32_t p = 0; p < t->pixels; p++) {
        t->out[p * t->out_step + t->channels - 1] = out[p][0];
    }
}

void embarq_multiply(const embarq_product *t)
{
    const int32_t item = t->view.s8 ? 1 : 4;
    const uint8_t *w = t->view.s8 ? (const uint8_t *)t->view.s8 : (const uint8_t *)t->view.f32;
    embarq_pair pair = {
        t->columns, t->columns + t->depth * EMBARQ_TILE, w + t->first * item, t->step_k * item, t->step_n * item, t->base, t->out, t->base_step * 4,
        t->out_step * 4, {1.0f, 1.0f}, t->pixels, t->high,
    };
    const int32_t pair_bytes = EMBARQ_PAIR * pair.step_n;
    int32_t n = 0;
    for (; n + EMBARQ_PAIR <= t->channels; n += EMBARQ_PAIR) {
        if (t->scales) {
            pair.scale[0] = t->scales[n];
            pair.scale[1] = t->scales[n + 1];
        }
        run_pair(&t->view, &pair);
        pair.w = (const uint8_t *)pair.w + pair_bytes;
        pair.base += EMBARQ_PAIR;
        pair.out += EMBARQ_PAIR;
    }
    if (n < t->channels) {
        pair.scale[0] = t->scales ? t->scales[n] : 1.0f;
        run_last(t, pair);
    }
}
