/* float32 convolutions, dense layers and matrix products in portable C. */
#include "embarq_kernels.h"
#include "real.h"
#include "window.h"

typedef struct {
    int32_t first_in, in_step, weight, tap_step; /* as in conv_s16.c */
} filter;

static float sum(const embarq_conv_f32_params *p, const float *image, int32_t y, int32_t x, const filter *f)
{
    const embarq_window *w = &p->window;
    const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
    const embarq_taps rows = embarq_taps_inside(top, w->kernel_h, w->dilation_h, w->in_h);
    const embarq_taps columns = embarq_taps_inside(left, w->kernel_w, w->dilation_w, w->in_w);
    float total = 0.0f;

    for (int32_t i = rows.first; i < rows.end; i++) {
        for (int32_t j = columns.first; j < columns.end; j++) {
            const float *in = image + ((top + i * w->dilation_h) * w->in_w + left + j * w->dilation_w) * w->in_c + f->first_in;
            const float *tap = p->weights + f->weight + (i * w->kernel_w + j) * f->tap_step;
            for (int32_t c = 0; c < f->in_step; c++) {
                total += in[c] * tap[c];
            }
        }
    }
    return total;
}

static void convolve(const embarq_conv_f32_params *p, const embarq_memory *memory, filter (*filter_of)(const embarq_conv_f32_params *, int32_t))
{
    const embarq_window *w = &p->window;
    const float *image = embarq_at(memory, p->input); /* [in_h][in_w][in_c] */
    float *out = embarq_at(memory, p->output);        /* [out_h][out_w][out_c] */

    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++) {
                for (int32_t c = 0; c < w->out_c; c++) {
                    const filter f = filter_of(p, c);
                    *out++ = embarq_limit_f32(sum(p, image, y, x, &f) + p->bias[c], p->low, p->high);
                }
            }
        }
    }
}

/* weights [out_c][kernel_h][kernel_w][in_c / groups] */
static filter conv_filter(const embarq_conv_f32_params *p, int32_t channel)
{
    const embarq_window *w = &p->window;
    const int32_t depth = w->in_c / p->groups;
    const filter f = {channel / (w->out_c / p->groups) * depth, depth, channel * w->kernel_h * w->kernel_w * depth, depth};
    return f;
}

/* weights [kernel_h][kernel_w][out_c] */
static filter depthwise_filter(const embarq_conv_f32_params *p, int32_t channel)
{
    const filter f = {channel / p->multiplier, 1, channel, p->window.out_c};
    return f;
}

void embarq_conv2d_f32(const void *params, const embarq_memory *memory)
{
    convolve(params, memory, conv_filter);
}

void embarq_depthwise_f32(const void *params, const embarq_memory *memory)
{
    convolve(params, memory, depthwise_filter);
}

void embarq_dense_f32(const void *params, const embarq_memory *memory)
{
    const embarq_dense_f32_params *p = params;
    const float *in = embarq_at(memory, p->input); /* [rows][depth] */
    float *out = embarq_at(memory, p->output);     /* [rows][channels] */
    for (int32_t row = 0; row < p->rows; row++, in += p->depth) {
        const float *weight = p->weights; /* [channels][depth] */
        for (int32_t c = 0; c < p->channels; c++, weight += p->depth) {
            float total = 0.0f;
            for (int32_t i = 0; i < p->depth; i++) {
                total += in[i] * weight[i];
            }
            *out++ = embarq_limit_f32(total + p->bias[c], p->low, p->high);
        }
    }
}

void embarq_batch_matmul_f32(const void *params, const embarq_memory *memory)
{
    const embarq_batch_matmul_f32_params *p = params;
    const float *a = embarq_source_at(memory, &p->a), *b = embarq_source_at(memory, &p->b);
    float *out = embarq_at(memory, p->output); /* [batch][rows][columns] */
    for (int32_t n = 0; n < p->batch; n++) {
        for (int32_t row = 0; row < p->rows; row++) {
            for (int32_t column = 0; column < p->columns; column++) {
                const float *x = a + n * p->a_batch + row * p->a_row, *y = b + n * p->b_batch + column * p->b_column;
                float total = 0.0f;
                for (int32_t i = 0; i < p->depth; i++) {
                    total += x[i * p->a_depth] * y[i * p->b_depth];
                }
                *out++ = total;
            }
        }
    }
}
