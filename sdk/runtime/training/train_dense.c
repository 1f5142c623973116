/* Dense layers on one row, forward and back. */
#include "real_fma.h"
#include "taps.h"

/* Weights of `channel` times the input, eight inputs at a time. */
static float dot_f32(const float *in, const float *w, int32_t depth)
{
    float sums[EMBARQ_LANES];
    const int32_t step = (int32_t)sizeof(sums), whole = depth / EMBARQ_LANES;
    const embarq_taps_sum sum = {in, w, 1, whole, step, step, 0, 0, 0, sums, 0, EMBARQ_LANES};
    embarq_sum_taps(&sum);
    for (int32_t i = whole * EMBARQ_LANES; i < depth; i++) {
        sums[i % EMBARQ_LANES] = embarq_fma(in[i], w[i], sums[i % EMBARQ_LANES]);
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

static float dot_s8(const float *in, const int8_t *w, int32_t depth)
{
    float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
    int32_t i = 0;
    for (; i + 4 <= depth; i += 4, in += 4, w += 4) {
        a = embarq_fma(in[0], (float)w[0], a);
        b = embarq_fma(in[1], (float)w[1], b);
        c = embarq_fma(in[2], (float)w[2], c);
        d = embarq_fma(in[3], (float)w[3], d);
    }
    for (; i < depth; i++) {
        a = embarq_fma(*in++, (float)*w++, a);
    }
    return (a + b) + (c + d);
}

static float dot(const embarq_view *view, const float *in, int32_t depth, int32_t channel)
{
    if (view->s8) {
        return dot_s8(in, view->s8 + channel * depth, depth) * view->scales[channel];
    }
    return dot_f32(in, view->f32 + channel * depth, depth);
}

void embarq_train_dense(const void *params, const embarq_memory *memory)
{
    const embarq_train_dense_params *p = params;
    const embarq_view weights = embarq_view_of(memory, &p->weights), adapter = embarq_view_of(memory, &p->p);
    const float *in = embarq_at(memory, p->input), *z = embarq_source_at(memory, &p->z), *bias = embarq_source_at(memory, &p->bias);
    float *out = embarq_at(memory, p->output);
    for (int32_t c = 0; c < p->channels; c++) {
        const float more = p->rank ? dot(&adapter, z, p->rank, c) : 0.0f;
        out[c] = embarq_within(dot(&weights, in, p->depth, c) + more + bias[c], p->low, p->high);
    }
}

/* Gradients of four inputs from `i`: every channel's gradient times its four weights. */
static void four_f32(const embarq_train_dense_grad_params *p, const float *w, const float *dy, float *sums)
{
    float a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    for (int32_t o = 0; o < p->channels; o++, w += p->depth) {
        const float g = dy[o];
        a = embarq_fma(g, w[0], a);
        b = embarq_fma(g, w[1], b);
        c = embarq_fma(g, w[2], c);
        d = embarq_fma(g, w[3], d);
    }
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
}

static void four_s8(const embarq_train_dense_grad_params *p, const int8_t *w, const float *scales, const float *dy, float *sums)
{
    float a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    for (int32_t o = 0; o < p->channels; o++, w += p->depth) {
        const float g = dy[o] * scales[o];
        a = embarq_fma(g, (float)w[0], a);
        b = embarq_fma(g, (float)w[1], b);
        c = embarq_fma(g, (float)w[2], c);
        d = embarq_fma(g, (float)w[3], d);
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
        if (view.s8) {
            four_s8(p, view.s8 + i, view.scales, dy, sums);
        } else {
            four_f32(p, view.f32 + i, dy, sums);
        }
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
