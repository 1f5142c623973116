/* int8 convolution for processors with vectors and caches: the bytes of kernels/conv2d_s8.c, four output channels at a time.
 * Where taps of a row lie side by side in the image (no dilation, one group) the whole row is one run. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "window.h"

#define BLOCK 4

/* The taps inside the image for one output pixel. */
typedef struct {
    int32_t top, left;
    embarq_taps rows, columns;
} window_at;

/* Adds n products to each of four sums. x[i] - zero_point in [-255, 255]. */
static void add_run(const int8_t *x, int32_t zero_point, const int8_t *const taps[BLOCK], int32_t n, int32_t sums[BLOCK])
{
    const int8_t *a = taps[0], *b = taps[1], *c = taps[2], *d = taps[3];
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;

    for (int32_t i = 0; i < n; i++) {
        const int16_t value = (int16_t)(x[i] - zero_point);
        s0 += value * (int16_t)a[i];
        s1 += value * (int16_t)b[i];
        s2 += value * (int16_t)c[i];
        s3 += value * (int16_t)d[i];
    }
    sums[0] += s0;
    sums[1] += s1;
    sums[2] += s2;
    sums[3] += s3;
}

/* Sums of output channels channel to channel + 3; those from `end` on repeat the last one and are thrown away. */
static void block(const embarq_conv2d_s8_params *p, const int8_t *image, const window_at *at, int32_t channel, int32_t end, int32_t sums[BLOCK])
{
    const embarq_window *w = &p->window;
    const int32_t depth = w->in_c / p->groups, first = channel / (w->out_c / p->groups) * depth;
    const int32_t whole = w->dilation_w == 1 && p->groups == 1;
    const int32_t step = whole ? at->columns.end - at->columns.first : 1;
    const int8_t *filters[BLOCK];

    for (int32_t k = 0; k < BLOCK; k++) {
        const int32_t c = channel + k < end ? channel + k : end - 1;
        filters[k] = p->weights + c * w->kernel_h * w->kernel_w * depth;
        sums[k] = p->bias[c];
    }
    for (int32_t i = at->rows.first; i < at->rows.end; i++) {
        for (int32_t j = at->columns.first; j < at->columns.end; j += step) {
            const int32_t pixel = (at->top + i * w->dilation_h) * w->in_w + at->left + j * w->dilation_w;
            const int32_t tap = (i * w->kernel_w + j) * depth;
            const int8_t *const taps[BLOCK] = {filters[0] + tap, filters[1] + tap, filters[2] + tap, filters[3] + tap};
            add_run(image + pixel * w->in_c + first, p->input_zero_point, taps, step * depth, sums);
        }
    }
}

static void pixel(const embarq_conv2d_s8_params *p, const int8_t *image, int32_t y, int32_t x, int8_t *out)
{
    const embarq_window *w = &p->window;
    const embarq_requant *q = &p->requant;
    const int32_t each = w->out_c / p->groups;
    window_at at = {embarq_origin(y, w->stride_h, w->pad_top), embarq_origin(x, w->stride_w, w->pad_left), {0, 0}, {0, 0}};
    at.rows = embarq_taps_inside(at.top, w->kernel_h, w->dilation_h, w->in_h);
    at.columns = embarq_taps_inside(at.left, w->kernel_w, w->dilation_w, w->in_w);

    for (int32_t group = 0; group < w->out_c; group += each) {
        for (int32_t c = group; c < group + each; c += BLOCK) {
            int32_t sums[BLOCK];
            block(p, image, &at, c, group + each, sums);
            for (int32_t k = 0; k < BLOCK && c + k < group + each; k++) {
                const int32_t scaled = embarq_rescale(sums[k], q->mult[c + k], q->shift[c + k]);
                out[c + k] = (int8_t)embarq_clamp(scaled + q->zero_point, q->low, q->high);
            }
        }
    }
}

void embarq_conv2d_s8(const void *params, const embarq_memory *memory)
{
    const embarq_conv2d_s8_params *p = params;
    const embarq_window *w = &p->window;
    const int8_t *image = embarq_at(memory, p->input); /* [in_h][in_w][in_c] */
    int8_t *out = embarq_at(memory, p->output);        /* [out_h][out_w][out_c] */

    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++, out += w->out_c) {
                pixel(p, image, y, x, out);
            }
        }
    }
}
