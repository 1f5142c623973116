/* A step of a convolution's weights: gradients of four output channels by four input channels at a time, each used up before the next. */
#include "learn.h"
#include "outer.h"
#include "real_fma.h"
#include "tile.h"

typedef struct {
    const embarq_train_conv2d_update_params *p;
    const float *x, *dy;
} work;

/* First index of `size` whose place lies inside [0, limit), and their count, when index i lies at i * stride - pad. */
static int32_t inside(int32_t size, int32_t stride, int32_t pad, int32_t limit, int32_t *count)
{
    int32_t first = pad > 0 ? (pad + stride - 1) / stride : 0;
    int32_t end = limit + pad > 0 ? (limit + pad - 1) / stride + 1 : 0;
    end = end < size ? end : size;
    *count = end > first ? end - first : 0;
    return first;
}

/* Fewer than four by four. */
static void outer_part(const float *x, const float *dy, int32_t x_step, int32_t dy_step, int32_t count, int32_t rows, int32_t columns, float *g)
{
    for (int32_t pixel = 0; pixel < count; pixel++, x += x_step, dy += dy_step) {
        for (int32_t a = 0; a < rows; a++) {
            for (int32_t b = 0; b < columns; b++) {
                g[EMBARQ_BLOCK * a + b] = embarq_fma(dy[a], x[b], g[EMBARQ_BLOCK * a + b]);
            }
        }
    }
}

/* g[rows][columns] of output channels from o and input channels from c under tap (i, j) */
static void block(const work *k, int32_t tap, int32_t o, int32_t c, int32_t rows, int32_t columns, float *g)
{
    const embarq_window *w = &k->p->window;
    const int32_t i = tap / w->kernel_w, j = tap % w->kernel_w, x_step = w->stride_w * w->in_c;
    int32_t lines, count;
    const int32_t top = inside(w->out_h, w->stride_h, w->pad_top - i * w->dilation_h, w->in_h, &lines);
    const int32_t left = inside(w->out_w, w->stride_w, w->pad_left - j * w->dilation_w, w->in_w, &count);
    for (int32_t a = 0; a < EMBARQ_BLOCK * EMBARQ_BLOCK; a++) {
        g[a] = 0.0f;
    }
    for (int32_t n = 0; count > 0 && n < w->batch; n++) {
        for (int32_t y = top; y < top + lines; y++) {
            const int32_t row = y * w->stride_h - w->pad_top + i * w->dilation_h, column = left * w->stride_w - w->pad_left + j * w->dilation_w;
            const float *x = k->x + ((n * w->in_h + row) * w->in_w + column) * w->in_c + c;
            const float *dy = k->dy + ((n * w->out_h + y) * w->out_w + left) * w->out_c + o;
            if (rows == EMBARQ_BLOCK && columns == EMBARQ_BLOCK) {
                embarq_outer(x, dy, 4 * x_step, 4 * w->out_c, count, g);
            } else {
                outer_part(x, dy, x_step, w->out_c, count, rows, columns, g);
            }
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
static void step_restored(const work *k, const embarq_learner *learner, const embarq_view *basis, float *scratch, int32_t tap, int32_t o, int32_t rows)
{
    const embarq_window *w = &k->p->window;
    const int32_t kept = w->in_c, depth = k->p->depth, taps = w->kernel_h * w->kernel_w;
    float *wide = scratch + EMBARQ_BLOCK * kept, g[EMBARQ_BLOCK * EMBARQ_BLOCK];
    for (int32_t c = 0; c < kept; c += EMBARQ_BLOCK) {
        const int32_t columns = at_most_block(kept - c);
        block(k, tap, o, c, rows, columns, g);
        for (int32_t a = 0; a < rows; a++) {
            for (int32_t b = 0; b < columns; b++) {
                scratch[a * kept + c + b] = g[EMBARQ_BLOCK * a + b] * (basis->scales ? basis->scales[c + b] : 1.0f);
            }
        }
    }
    for (int32_t a = 0; a < rows; a++) {
        restore(scratch + a * kept, basis, kept, depth, wide);
        embarq_take_step(learner, ((o + a) * taps + tap) * depth, depth, o + a, wide);
    }
}

static void step_plain(const work *k, const embarq_learner *learner, int32_t tap, int32_t o, int32_t rows)
{
    const embarq_window *w = &k->p->window;
    const int32_t depth = w->in_c, taps = w->kernel_h * w->kernel_w;
    float g[EMBARQ_BLOCK * EMBARQ_BLOCK];
    for (int32_t c = 0; c < depth; c += EMBARQ_BLOCK) {
        const int32_t columns = at_most_block(depth - c);
        block(k, tap, o, c, rows, columns, g);
        for (int32_t a = 0; a < rows; a++) {
            embarq_take_step(learner, ((o + a) * taps + tap) * depth + c, columns, o + a, g + EMBARQ_BLOCK * a);
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

    for (int32_t o = 0; o < w->out_c; o += EMBARQ_BLOCK) {
        for (int32_t tap = 0; tap < w->kernel_h * w->kernel_w; tap++) {
            if (p->has_basis) {
                step_restored(&k, &learner, &basis, embarq_at(memory, p->scratch), tap, o, at_most_block(w->out_c - o));
            } else {
                step_plain(&k, &learner, tap, o, at_most_block(w->out_c - o));
            }
        }
    }
}
