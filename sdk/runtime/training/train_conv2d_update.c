/* A step of a convolution's weights: gradients of four output channels by four input channels at a time, each used up before the next. */
#include "learn.h"
#include "outer.h"
#include "real_fma.h"
#include "taps.h"

/* One tap of the kernel: the pixels that meet under it. */
typedef struct {
    const float *x, *dy; /* of the first that meet, channel 0; of one sample */
    embarq_runs runs;    /* lines is 0 where none meet */
    int32_t tap;
} meeting;

typedef struct {
    const embarq_train_conv2d_update_params *p;
    const float *x, *dy;
} work;

static meeting meet(const work *k, int32_t tap)
{
    const embarq_window *w = &k->p->window;
    const embarq_meeting down = embarq_outputs_of_tap(tap / w->kernel_w, w->out_h, w->stride_h, w->dilation_h, w->pad_top, w->in_h);
    const embarq_meeting across = embarq_outputs_of_tap(tap % w->kernel_w, w->out_w, w->stride_w, w->dilation_w, w->pad_left, w->in_w);
    const int32_t x_step = across.place_step * w->in_c * 4, dy_step = w->out_c * 4;
    const meeting m = {
        k->x + (down.place * w->in_w + across.place) * w->in_c,
        k->dy + (down.first * w->out_w + across.first) * w->out_c,
        {x_step, dy_step, down.place_step * w->in_w * w->in_c * 4 - across.count * x_step, (w->out_w - across.count) * dy_step,
         across.count ? down.count : 0, across.count},
        tap,
    };
    return m;
}

/* g[rows][columns] of output channels from o and input channels from c */
static void block(const work *k, const meeting *m, int32_t o, int32_t c, int32_t rows, int32_t columns, float *g)
{
    const embarq_window *w = &k->p->window;
    const int full = rows == EMBARQ_BLOCK && columns == EMBARQ_BLOCK && m->runs.lines > 0;
    for (int32_t n = 0; n < w->batch; n++) {
        const float *x = m->x + n * w->in_h * w->in_w * w->in_c + c, *dy = m->dy + n * w->out_h * w->out_w * w->out_c + o;
        float more[EMBARQ_BLOCK * EMBARQ_BLOCK], *to = n ? more : g;
        if (full) {
            embarq_outer(x, dy, &m->runs, to);
        } else {
            embarq_outer_part(x, dy, &m->runs, rows, columns, to);
        }
        for (int32_t i = 0; n && i < EMBARQ_BLOCK * EMBARQ_BLOCK; i++) {
            g[i] += more[i];
        }
    }
}

static int32_t at_most_block(int32_t left)
{
    return left < EMBARQ_BLOCK ? left : EMBARQ_BLOCK;
}

/* wide[c] = sum over k of narrow[k] * basis[k][c] */
static void restore(const float *narrow, const embarq_view *basis, int32_t kept, int32_t depth, float *wide)
{
    for (int32_t c = 0; c < depth; c++) {
        float total = 0.0f;
        for (int32_t k = 0; k < kept; k++) {
            total = embarq_fma(narrow[k], embarq_view_at(basis, k * depth + c), total);
        }
        wide[c] = total;
    }
}

/* Through a basis: gradients of all that was kept first, scaled as the basis is, then channel by channel brought back. */
static void step_restored(const work *k, const embarq_learner *learner, const embarq_view *basis, float *scratch, const meeting *m, int32_t o, int32_t rows)
{
    const embarq_window *w = &k->p->window;
    const int32_t kept = w->in_c, depth = k->p->depth, taps = w->kernel_h * w->kernel_w;
    float *wide = scratch + EMBARQ_BLOCK * kept, g[EMBARQ_BLOCK * EMBARQ_BLOCK];
    for (int32_t c = 0; c < kept; c += EMBARQ_BLOCK) {
        const int32_t columns = at_most_block(kept - c);
        block(k, m, o, c, rows, columns, g);
        for (int32_t a = 0; a < rows; a++) {
            for (int32_t b = 0; b < columns; b++) {
                scratch[a * kept + c + b] = g[EMBARQ_BLOCK * a + b] * (basis->scales ? basis->scales[c + b] : 1.0f);
            }
        }
    }
    for (int32_t a = 0; a < rows; a++) {
        restore(scratch + a * kept, basis, kept, depth, wide);
        embarq_take_step(learner, ((o + a) * taps + m->tap) * depth, depth, o + a, wide);
    }
}

static void step_plain(const work *k, const embarq_learner *learner, const meeting *m, int32_t o, int32_t rows)
{
    const embarq_window *w = &k->p->window;
    const int32_t depth = w->in_c, taps = w->kernel_h * w->kernel_w;
    float g[EMBARQ_BLOCK * EMBARQ_BLOCK];
    for (int32_t c = 0; c < depth; c += EMBARQ_BLOCK) {
        const int32_t columns = at_most_block(depth - c);
        block(k, m, o, c, rows, columns, g);
        for (int32_t a = 0; a < rows; a++) {
            const int32_t index = ((o + a) * taps + m->tap) * depth + c;
            if (columns == EMBARQ_BLOCK && embarq_is_plain(learner)) {
                embarq_take_four(learner, index, g + EMBARQ_BLOCK * a);
            } else {
                embarq_take_step(learner, index, columns, o + a, g + EMBARQ_BLOCK * a);
            }
        }
    }
}

void embarq_train_conv2d_update(const void *params, const embarq_memory *memory)
{
    const embarq_train_conv2d_update_params *p = params;
    const embarq_window *w = &p->window;
    const embarq_view basis = embarq_view_of(memory, &p->basis);
    const embarq_learner learner = embarq_learner_of(memory, &p->learn);
    const work k = {p, embarq_at(memory, p->input), embarq_at(memory, p->dy)};

    for (int32_t tap = 0; tap < w->kernel_h * w->kernel_w; tap++) {
        const meeting m = meet(&k, tap);
        for (int32_t o = 0; o < w->out_c; o += EMBARQ_BLOCK) {
            if (p->has_basis) {
                step_restored(&k, &learner, &basis, embarq_at(memory, p->scratch), &m, o, at_most_block(w->out_c - o));
            } else {
                step_plain(&k, &learner, &m, o, at_most_block(w->out_c - o));
            }
        }
    }
}
