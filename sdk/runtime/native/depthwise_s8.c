/* int8 depthwise convolution for processors with vectors: the bytes of kernels/depthwise_s8.c, 64 channels side by side. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "window.h"

#define BLOCK 64

/* Adds one tap to n channels. x[i] - zero_point in [-255, 255]. */
static void add_tap(const int8_t *x, int32_t zero_point, const int8_t *weights, int32_t n, int32_t *sums)
{
    for (int32_t i = 0; i < n; i++) {
        sums[i] += (int16_t)(x[i] - zero_point) * (int16_t)weights[i];
    }
}

/* The same where several output channels read one input channel. */
static void add_shared(const int8_t *x, int32_t multiplier, int32_t zero_point, const int8_t *weights, int32_t first, int32_t n, int32_t *sums)
{
    for (int32_t i = 0; i < n; i++) {
        sums[i] += (x[(first + i) / multiplier] - zero_point) * weights[i];
    }
}

static void block(const embarq_depthwise_s8_params *p, const int8_t *image, int32_t y, int32_t x, int32_t first, int32_t n, int8_t *out)
{
    const embarq_window *w = &p->window;
    const embarq_requant *q = &p->requant;
    const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
    const embarq_taps rows = embarq_taps_inside(top, w->kernel_h, w->dilation_h, w->in_h);
    const embarq_taps columns = embarq_taps_inside(left, w->kernel_w, w->dilation_w, w->in_w);
    int32_t sums[BLOCK];

    for (int32_t i = 0; i < n; i++) {
        sums[i] = p->bias[first + i];
    }
    for (int32_t i = rows.first; i < rows.end; i++) {
        for (int32_t j = columns.first; j < columns.end; j++) {
            const int8_t *in = image + ((top + i * w->dilation_h) * w->in_w + left + j * w->dilation_w) * w->in_c;
            const int8_t *weights = p->weights + (i * w->kernel_w + j) * w->out_c + first;
            if (p->multiplier == 1) {
                add_tap(in + first, p->input_zero_point, weights, n, sums);
            } else {
                add_shared(in, p->multiplier, p->input_zero_point, weights, first, n, sums);
            }
        }
    }
    for (int32_t i = 0; i < n; i++) {
        const int32_t scaled = embarq_rescale(sums[i], q->mult[first + i], q->shift[first + i]);
        out[first + i] = (int8_t)embarq_clamp(scaled + q->zero_point, q->low, q->high);
    }
}

void embarq_depthwise_s8(const void *params, const embarq_memory *memory)
{
    const embarq_depthwise_s8_params *p = params;
    const embarq_window *w = &p->window;
    const int8_t *image = embarq_at(memory, p->input); /* [in_h][in_w][in_c] */
    int8_t *out = embarq_at(memory, p->output);        /* [out_h][out_w][out_c] */

    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++, out += w->out_c) {
                for (int32_t c = 0; c < w->out_c; c += BLOCK) {
                    block(p, image, y, x, c, w->out_c - c < BLOCK ? w->out_c - c : BLOCK, out);
                }
            }
        }
    }
}
