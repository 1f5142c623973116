/* int16 activations with int8 weights (LiteRT's 16x8): convolution and depthwise convolution in portable C. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "window.h"

typedef struct {
    int32_t first_in, in_step; /* input channels: where they start and how many */
    int32_t weight;            /* element of the filter's tap (0, 0), first channel */
    int32_t tap_step;          /* elements from tap to tap */
} filter;

static int64_t sum(const embarq_conv_s16_params *p, const int16_t *image, int32_t y, int32_t x, const filter *f)
{
    const embarq_window *w = &p->window;
    const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
    const embarq_taps rows = embarq_taps_inside(top, w->kernel_h, w->dilation_h, w->in_h);
    const embarq_taps columns = embarq_taps_inside(left, w->kernel_w, w->dilation_w, w->in_w);
    int64_t total = 0;

    for (int32_t i = rows.first; i < rows.end; i++) {
        for (int32_t j = columns.first; j < columns.end; j++) {
            const int16_t *in = image + ((top + i * w->dilation_h) * w->in_w + left + j * w->dilation_w) * w->in_c + f->first_in;
            const int8_t *tap = p->weights + f->weight + (i * w->kernel_w + j) * f->tap_step;
            for (int32_t c = 0; c < f->in_step; c++) {
                total += in[c] * tap[c];
            }
        }
    }
    return total;
}

static void convolve(const embarq_conv_s16_params *p, const embarq_memory *memory, filter (*filter_of)(const embarq_conv_s16_params *, int32_t))
{
    const embarq_window *w = &p->window;
    const embarq_requant *q = &p->requant;
    const int16_t *image = embarq_at(memory, p->input); /* [in_h][in_w][in_c] */
    int16_t *out = embarq_at(memory, p->output);        /* [out_h][out_w][out_c] */

    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t pixel = 0; pixel < w->out_h * w->out_w; pixel++) {
            for (int32_t c = 0; c < w->out_c; c++) {
                const filter f = filter_of(p, c);
                const int64_t total = p->bias[c] + sum(p, image, pixel / w->out_w, pixel % w->out_w, &f);
                const int32_t scaled = p->wide ? embarq_rescale_64(total, q->mult[c], q->shift[c]) : embarq_rescale((int32_t)total, q->mult[c], q->shift[c]);
                *out++ = (int16_t)embarq_clamp(scaled + q->zero_point, q->low, q->high);
            }
        }
    }
}

/* weights [out_c][kernel_h][kernel_w][in_c / groups] */
static filter conv_filter(const embarq_conv_s16_params *p, int32_t channel)
{
    const embarq_window *w = &p->window;
    const int32_t depth = w->in_c / p->groups;
    const filter f = {channel / (w->out_c / p->groups) * depth, depth, channel * w->kernel_h * w->kernel_w * depth, depth};
    return f;
}

/* weights [kernel_h][kernel_w][out_c] */
static filter depthwise_filter(const embarq_conv_s16_params *p, int32_t channel)
{
    const filter f = {channel / p->multiplier, 1, channel, p->window.out_c};
    return f;
}

void embarq_conv2d_s16(const void *params, const embarq_memory *memory)
{
    convolve(params, memory, conv_filter);
}

void embarq_depthwise_s16(const void *params, const embarq_memory *memory)
{
    convolve(params, memory, depthwise_filter);
}

void embarq_dense_s16(const void *params, const embarq_memory *memory)
{
    const embarq_dense_s16_params *p = params;
    const embarq_requant *q = &p->requant;
    const int16_t *in = embarq_at(memory, p->input); /* [rows][depth] */
    int16_t *out = embarq_at(memory, p->output);     /* [rows][channels] */

    for (int32_t row = 0; row < p->rows; row++, in += p->depth) {
        const int8_t *weight = p->weights;
        for (int32_t c = 0; c < p->channels; c++, weight += p->depth) {
            int64_t total = p->bias[c];
            for (int32_t i = 0; i < p->depth; i++) {
                total += in[i] * (weight[i] - p->weight_zero_point);
            }
            const int64_t scaled = embarq_rescale_once_64(total, q->mult[c], q->shift[c]) + q->zero_point;
            *out++ = (int16_t)(scaled < q->low ? q->low : scaled > q->high ? q->high : scaled);
        }
    }
}
