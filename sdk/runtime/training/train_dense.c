/* Dense layers on one row, forward and back: four channels at a time. */
#include "real_fma.h"
#include "tile.h"

/* sums[0..count) of channels from `channel`: input times their weights */
static void dots(const embarq_view *view, const float *in, int32_t depth, int32_t channel, int32_t count, float *sums)
{
    for (int32_t n = 0; n < count; n++) {
        const int32_t first = (channel + n) * depth;
        float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
        int32_t i = 0;
        if (view->s8) {
            const int8_t *w = view->s8 + first;
            for (; i + 4 <= depth; i += 4) {
                a = embarq_fma(in[i], (float)w[i], a);
                b = embarq_fma(in[i + 1], (float)w[i + 1], b);
                c = embarq_fma(in[i + 2], (float)w[i + 2], c);
                d = embarq_fma(in[i + 3], (float)w[i + 3], d);
            }
        } else {
            const float *w = view->f32 + first;
            for (; i + 4 <= depth; i += 4) {
                a = embarq_fma(in[i], w[i], a);
                b = embarq_fma(in[i + 1], w[i + 1], b);
                c = embarq_fma(in[i + 2], w[i + 2], c);
                d = embarq_fma(in[i + 3], w[i + 3], d);
            }
        }
        for (; i < depth; i++) {
            a = embarq_fma(in[i], embarq_view_at(view, first + i), a);
        }
        sums[n] = ((a + b) + (c + d)) * (view->scales ? view->scales[channel + n] : 1.0f);
    }
}

void embarq_train_dense(const void *params, const embarq_memory *memory)
{
    const embarq_train_dense_params *p = params;
    const embarq_view weights = embarq_view_of(memory, &p->weights), adapter = embarq_view_of(memory, &p->p);
    const float *in = embarq_at(memory, p->input), *z = embarq_source_at(memory, &p->z), *bias = embarq_source_at(memory, &p->bias);
    float *out = embarq_at(memory, p->output);
    for (int32_t c = 0; c < p->channels; c++) {
        float total, more = 0.0f;
        dots(&weights, in, p->depth, c, 1, &total);
        if (p->rank) {
            dots(&adapter, z, p->rank, c, 1, &more);
        }
        out[c] = embarq_within(total + more + bias[c], p->low, p->high);
    }
}

/* Gradients of four inputs from `i`: every channel's gradient times its four weights. */
static void four_inputs(const embarq_train_dense_grad_params *p, const embarq_view *view, const float *dy, int32_t i, float *sums)
{
    float a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    int32_t at = i;
    for (int32_t o = 0; o < p->channels; o++, at += p->depth) {
        const float g = view->scales ? dy[o] * view->scales[o] : dy[o];
        a = embarq_fma(g, embarq_view_at(view, at), a);
        b = embarq_fma(g, embarq_view_at(view, at + 1), b);
        c = embarq_fma(g, embarq_view_at(view, at + 2), c);
        d = embarq_fma(g, embarq_view_at(view, at + 3), d);
    }
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
}

void embarq_train_dense_grad(const void *params, const embarq_memory *memory)
{
    const embarq_train_dense_grad_params *p = params;
    const embarq_view view = embarq_view_of(memory, &p->weights);
    const float *dy = embarq_at(memory, p->input), *add = p->has_add ? embarq_at(memory, p->add) : 0;
    float *out = embarq_at(memory, p->output);
    int32_t i = 0;
    for (; i + 4 <= p->depth; i += 4) {
        float sums[4] = {0};
        for (int32_t k = 0; add && k < 4; k++) {
            sums[k] = add[i + k];
        }
        four_inputs(p, &view, dy, i, sums);
        for (int32_t k = 0; k < 4; k++) {
            out[i + k] = sums[k];
        }
    }
    for (; i < p->depth; i++) {
        float total = add ? add[i] : 0.0f;
        for (int32_t o = 0; o < p->channels; o++) {
            total = embarq_fma(view.scales ? dy[o] * view.scales[o] : dy[o], embarq_view_at(&view, o * p->depth + i), total);
        }
        out[i] = total;
    }
}
