/* float32 convolutions, dense layers and matrix products in portable C. */
#include "embarq_kernels.h"
#include "real.h"
#include "window.h"

enum { LANES = 4 };

/* Taps of one output pixel that lie inside the image. */
typedef struct {
    const float *in;            /* the first of them, channel 0 */
    int32_t rows, columns;
    int32_t in_row, in_column;  /* from tap to tap */
    int32_t first;              /* its number in the kernel */
} place;

static place place_of(const embarq_window *w, const float *image, int32_t y, int32_t x)
{
    const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
    const embarq_taps rows = embarq_taps_inside(top, w->kernel_h, w->dilation_h, w->in_h);
    const embarq_taps columns = embarq_taps_inside(left, w->kernel_w, w->dilation_w, w->in_w);
    const place at = {
        image + ((top + rows.first * w->dilation_h) * w->in_w + left + columns.first * w->dilation_w) * w->in_c,
        columns.end > columns.first ? rows.end - rows.first : 0, columns.end - columns.first,
        w->dilation_h * w->in_w * w->in_c, w->dilation_w * w->in_c, rows.first * w->kernel_w + columns.first,
    };
    return at;
}

static void convolve(const embarq_conv_f32_params *p, const embarq_memory *memory, void (*pixel)(const embarq_conv_f32_params *, const place *, float *))
{
    const embarq_window *w = &p->window;
    const float *image = embarq_at(memory, p->input); /* [in_h][in_w][in_c] */
    float *out = embarq_at(memory, p->output);        /* [out_h][out_w][out_c] */

    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++, out += w->out_c) {
                const place at = place_of(w, image, y, x);
                pixel(p, &at, out);
            }
        }
    }
}

/* totals[0..3] += in[0..count) times four filters, `step` apart */
static void dots(const float *in, const float *filter, int32_t step, int32_t count, float *totals)
{
    const float *second = filter + step, *third = second + step, *fourth = third + step;
    float a = totals[0], b = totals[1], c = totals[2], d = totals[3];
    for (int32_t i = 0; i < count; i++) {
        const float value = in[i];
        a += value * filter[i];
        b += value * second[i];
        c += value * third[i];
        d += value * fourth[i];
    }
    totals[0] = a;
    totals[1] = b;
    totals[2] = c;
    totals[3] = d;
}

static void dot(const float *in, const float *filter, int32_t count, float *total)
{
    for (int32_t i = 0; i < count; i++) {
        *total += in[i] * filter[i];
    }
}

/* One pixel of `count` output channels from c, all of one group; weights [out_c][kernel_h][kernel_w][depth]. Taps of a row lie in one piece where the
 * kernel is not dilated and takes all channels. */
static void channels(const embarq_conv_f32_params *p, const place *at, int32_t c, int32_t count, float *out)
{
    const embarq_window *w = &p->window;
    const int32_t depth = w->in_c / p->groups, filter = w->kernel_h * w->kernel_w * depth;
    const int whole = depth == at->in_column;
    const int32_t runs = whole && at->columns ? 1 : at->columns, length = whole ? at->columns * depth : depth;
    const float *row = at->in + c / (w->out_c / p->groups) * depth, *weights = p->weights + c * filter + at->first * depth;
    float totals[LANES] = {0};
    for (int32_t i = 0; i < at->rows; i++, row += at->in_row, weights += w->kernel_w * depth) {
        const float *in = row, *tap = weights;
        for (int32_t j = 0; j < runs; j++, in += at->in_column, tap += depth) {
            if (count == LANES) {
                dots(in, tap, filter, length, totals);
            } else {
                dot(in, tap, length, totals);
            }
        }
    }
    for (int32_t k = 0; k < count; k++) {
        out[k] = embarq_limit_f32(totals[k] + p->bias[c + k], p->low, p->high);
    }
}

static void conv_pixel(const embarq_conv_f32_params *p, const place *at, float *out)
{
    const int32_t group = p->window.out_c / p->groups;
    for (int32_t c = 0; c < p->window.out_c;) {
        const int32_t count = group - c % group >= LANES ? LANES : 1;
        channels(p, at, c, count, out + c);
        c += count;
    }
}

/* totals of four channels of a depthwise pixel: weights [kernel_h][kernel_w][out_c] */
static void four_lanes(const embarq_conv_f32_params *p, const place *at, int32_t channel, float *totals)
{
    const int32_t channels = p->window.out_c, line = p->window.kernel_w * channels;
    const float *row = at->in + channel, *weights = p->weights + at->first * channels + channel;
    float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
    for (int32_t i = 0; i < at->rows; i++, row += at->in_row, weights += line) {
        const float *in = row, *tap = weights;
        for (int32_t j = 0; j < at->columns; j++, in += at->in_column, tap += channels) {
            a += in[0] * tap[0];
            b += in[1] * tap[1];
            c += in[2] * tap[2];
            d += in[3] * tap[3];
        }
    }
    totals[0] = a;
    totals[1] = b;
    totals[2] = c;
    totals[3] = d;
}

static void one_lane(const embarq_conv_f32_params *p, const place *at, int32_t channel, float *total)
{
    const int32_t channels = p->window.out_c, line = p->window.kernel_w * channels;
    const float *row = at->in + channel / p->multiplier, *weights = p->weights + at->first * channels + channel;
    for (int32_t i = 0; i < at->rows; i++, row += at->in_row, weights += line) {
        const float *in = row, *tap = weights;
        for (int32_t j = 0; j < at->columns; j++, in += at->in_column, tap += channels) {
            *total += *in * *tap;
        }
    }
}

static void depthwise_pixel(const embarq_conv_f32_params *p, const place *at, float *out)
{
    for (int32_t c = 0; c < p->window.out_c;) {
        const int32_t count = p->multiplier == 1 && p->window.out_c - c >= LANES ? LANES : 1;
        float totals[LANES] = {0};
        if (count == LANES) {
            four_lanes(p, at, c, totals);
        } else {
            one_lane(p, at, c, totals);
        }
        for (int32_t k = 0; k < count; k++, c++) {
            out[c] = embarq_limit_f32(totals[k] + p->bias[c], p->low, p->high);
        }
    }
}

void embarq_conv2d_f32(const void *params, const embarq_memory *memory)
{
    convolve(params, memory, conv_pixel);
}

void embarq_depthwise_f32(const void *params, const embarq_memory *memory)
{
    convolve(params, memory, depthwise_pixel);
}

void embarq_dense_f32(const void *params, const embarq_memory *memory)
{
    const embarq_dense_f32_params *p = params;
    const float *in = embarq_at(memory, p->input); /* [rows][depth] */
    float *out = embarq_at(memory, p->output);     /* [rows][channels] */
    for (int32_t row = 0; row < p->rows; row++, in += p->depth) {
        const float *weight = p->weights; /* [channels][depth] */
        for (int32_t c = 0; c < p->channels;) {
            const int32_t count = p->channels - c >= LANES ? LANES : 1;
            float totals[LANES] = {0};
            if (count == LANES) {
                dots(in, weight, p->depth, p->depth, totals);
            } else {
                dot(in, weight, p->depth, totals);
            }
            for (int32_t k = 0; k < count; k++) {
                *out++ = embarq_limit_f32(totals[k] + p->bias[c + k], p->low, p->high);
            }
            c += count;
            weight += count * p->depth;
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
